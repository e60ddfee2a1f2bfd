// Runs the Postman collection against a server in open mode, or in secure mode as a support user:
//
//   node newman.mjs http://127.0.0.1:3000 [<username> <password>]

import newman from 'newman';
import { fileURLToPath } from 'node:url';

const [baseUrl, operatorUsername, operatorPassword] = process.argv.slice(2);
if (!baseUrl || Boolean(operatorUsername) !== Boolean(operatorPassword)) {
  console.error('usage: node newman.mjs <baseUrl> [<username> <password>]');
  process.exit(2);
}

const postman = (name) => fileURLToPath(new URL(`../../postman/causerie.${name}.json`, import.meta.url));
const variables = { baseUrl: baseUrl.replace(/\/$/, ''), ...(operatorUsername && { operatorUsername, operatorPassword }) };

newman.run(
  {
    collection: postman('postman_collection'),
    environment: postman(operatorUsername ? 'secure.postman_environment' : 'postman_environment'),
    envVar: Object.entries(variables).map(([key, value]) => ({ key, value })),
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
