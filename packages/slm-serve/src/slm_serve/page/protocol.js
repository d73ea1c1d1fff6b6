export const CUT_OFF = "The connection was lost before the text was complete.";
const UNREACHABLE = "The server cannot be reached: check that it runs and that you are connected.";

/** What the user is to read instead of a text. */
export class Refusal extends Error {}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/([^.!?])$/, "$1.");

function tryAgain(seconds) {
  const when = seconds > 0 ? `${seconds} second${seconds === 1 ? "" : "s"}` : "a moment";
  return `The server is busy: try again in ${when}.`;
}

async function refusal(response) {
  if (response.status === 429) return tryAgain(Math.ceil(response.headers.get("Retry-After")));
  if (response.status === 401) return "The server asks for a password: reload the page to give it.";
  const { detail } = await response.json().catch(() => ({}));
  if (typeof detail === "string") return sentence(detail);
  if (!Array.isArray(detail)) return `The server answered with status ${response.status}.`;
  const faults = detail.map(({ loc, msg }) => `${loc.slice(1).join(" ").replaceAll("_", " ")}: ${msg}`);
  return sentence(faults.join("; "));
}

/** The promise's value; where the network fails, a Refusal with these words. An abort passes as it is. */
function reached(promise, words) {
  return promise.catch((error) => {
    throw error.name === "AbortError" ? error : new Refusal(words);
  });
}

export async function fetched(address, options) {
  const response = await reached(fetch(address, options), UNREACHABLE);
  if (!response.ok) throw new Refusal(await refusal(response));
  return response;
}

/** The events of a text/event-stream, up to [DONE]. */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reached(reader.read(), CUT_OFF);
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice("data:".length).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}
