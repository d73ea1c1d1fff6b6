export const CONNECTION_LOST = "The connection was lost before the text was complete.";
const UNREACHABLE = "The server cannot be reached: check that it is running and that you are connected.";

/** A failed request; the message is shown in place of the text. */
export class RequestFailure extends Error {}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/([^.!?])$/, "$1.");

function tryAgain(seconds) {
  const when = seconds > 0 ? `${seconds} second${seconds === 1 ? "" : "s"}` : "a moment";
  return `The server is busy: try again in ${when}.`;
}

async function errorMessage(response) {
  if (response.status === 429) return tryAgain(Math.ceil(response.headers.get("Retry-After")));
  if (response.status === 401) return "The server requires a password: reload the page to enter it.";
  const { detail } = await response.json().catch(() => ({}));
  if (typeof detail === "string") return sentence(detail);
  if (!Array.isArray(detail)) return `The server answered with status ${response.status}.`;
  const problems = detail.map(({ loc, msg }) => `${loc.slice(1).join(" ").replaceAll("_", " ")}: ${msg}`);
  return sentence(problems.join("; "));
}

/** The value of a promise. A network error becomes a RequestFailure with this message; an abort is passed on. */
function orFail(promise, message) {
  return promise.catch((error) => {
    throw error.name === "AbortError" ? error : new RequestFailure(message);
  });
}

export async function fetchOrFail(address, options) {
  const response = await orFail(fetch(address, options), UNREACHABLE);
  if (!response.ok) throw new RequestFailure(await errorMessage(response));
  return response;
}

/** The events of a text/event-stream response, until [DONE]. */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await orFail(reader.read(), CONNECTION_LOST);
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
