// Runs the checks of a client script: `node script.js URL MODEL`, where URL is that of the API, with /v1.
export const KEY = "key"; // the server requires none, but the clients do
export const QUESTION = "What should I pack for a walk in the rain?";

export async function run(...checks) {
  const [url, model] = process.argv.slice(2);
  for (const check of checks) {
    await check(url, model);
    console.log(`passed: ${check.name}`);
  }
}
