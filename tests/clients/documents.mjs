// The code in docs/sockets.md, so that the tests run what the document shows.

import { readFileSync } from 'node:fs';

const text = readFileSync(new URL('../../docs/sockets.md', import.meta.url), 'utf8');

/** The blocks of code in this language under a heading. */
export function blocks(heading, language = 'js') {
  const begin = text.search(new RegExp(`\n##+ ${heading}\n`));
  if (begin < 0) throw new Error(`docs/sockets.md has no heading '${heading}'`);
  const section = text.slice(begin + 1).split(/\n##+ /)[0];
  return [...section.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, 'gms'))].map(([, code]) => code);
}

/** Replaces what has to be there once. */
export function replaced(code, what, by) {
  if (code.split(what).length !== 2) throw new Error(`docs/sockets.md does not have this once: ${what}`);
  return code.replace(what, () => by);
}
