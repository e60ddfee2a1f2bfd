// Checks: one line for each, a deadline for every wait, a verdict at the end.

import { isDeepStrictEqual } from 'node:util';

/** How long anything may take before it counts as not happening, in milliseconds. */
export const DEADLINE = 10_000;

const verdict = { passed: 0, failed: 0, since: Date.now() };

/** Runs one check, prints its line and returns whether it passed. */
export async function check(title, body) {
  try {
    await body();
    verdict.passed += 1;
    console.log(`ok ${title}`);
    return true;
  } catch (error) {
    verdict.failed += 1;
    const cause = error.cause ? ` (${error.cause.message})` : '';
    console.log(`FAILED ${title}: ${error.message}${cause}`);
    return false;
  }
}

/** Ends the process: 0 if every check passed, 1 if one failed or there was none. */
export function finish() {
  const seconds = ((Date.now() - verdict.since) / 1000).toFixed(1);
  console.log(`${verdict.passed} passed, ${verdict.failed} failed, in ${seconds} s`);
  process.exit(verdict.failed === 0 && verdict.passed > 0 ? 0 : 1);
}

/** Waits for `condition` to hold. */
export async function until(condition, what, deadline = DEADLINE) {
  const end = Date.now() + deadline;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`${what}: not within ${deadline / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export function expect(holds, what) {
  if (!holds) throw new Error(what);
}

export function expectEqual(actual, expected, what) {
  if (!isDeepStrictEqual(actual, expected)) {
    throw new Error(`${what}: expected ${brief(expected)}, got ${brief(actual)}`);
  }
}

function brief(value) {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 400 ? `${text.slice(0, 400)}… (${text.length} characters)` : text;
}
