// Runs the Postman collection against a server:  node newman.mjs http://127.0.0.1:3000

import newman from 'newman';
import { fileURLToPath } from 'node:url';

const [baseUrl] = process.argv.slice(2);
if (!baseUrl) {
  console.error('usage: node newman.mjs <baseUrl>');
  process.exit(2);
}

const postman = (name) => fileURLToPath(new URL(`../../postman/causerie.postman_${name}.json`, import.meta.url));

newman.run(
  {
    collection: postman('collection'),
    environment: postman('environment'),
    envVar: [{ key: 'baseUrl', value: baseUrl.replace(/\/$/, '') }],
    reporters: ['cli'],
    color: 'off',
    timeoutRequest: 10_000,
  },
  (error, summary) => {
    if (error) console.error(`newman could not run: ${error.message}`);
    const { assertions } = summary?.run?.stats ?? {};
    const passed = !error && summary.run.failures.length === 0 && assertions.total > 0;
    process.exit(passed ? 0 : 1);
  },
);
