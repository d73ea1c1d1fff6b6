export const CONNECTION_LOST = "The connection was lost before the text was complete.";
const UNREACHABLE = "The server cannot be reached: check that it is running and that you are connected.";
const NOT_JSON = "The server sent an event that is not JSON.";

/** A failed request. The message is a sentence for the user; the status is undefined if there was no response. */
export class RequestFailure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/([^.!?])$/, "$1.");

function tryAgain(seconds) {
  const when = seconds > 0 ? `${seconds} second${seconds === 1 ? "" : "s"}` : "a moment";
  return `The server is busy: try again in ${when}.`;
}

/** The problem that an error body describes: OpenAI's `error`, or FastAPI's `detail`. */
function described({ error, detail }) {
  if (typeof error?.message === "string") return error.message;
  if (typeof detail === "string") return detail;
  if (!Array.isArray(detail)) return "";
  return detail.map(({ loc, msg }) => `${loc.slice(1).join(" ").replaceAll("_", " ")}: ${msg}`).join("; ");
}

async function errorMessage(response) {
  if (response.status === 429) return tryAgain(Math.ceil(response.headers.get("Retry-After")));
  if (response.status === 401) return "The server requires a password: reload the page to enter it.";
  const body = await response.json().catch(() => null);
  return sentence(described(body ?? {}) || `The server answered with status ${response.status}.`);
}

/** The value of a promise. A network error becomes a RequestFailure with this message; an abort is passed on. */
function orFail(promise, message) {
  return promise.catch((error) => {
    throw error.name === "AbortError" ? error : new RequestFailure(message);
  });
}

/** The response to a request; `address` is relative to the page, which may be behind a path of a proxy. */
export async function fetchOrFail(address, options) {
  // Without a user and password of the page's own address, with which fetch refuses an address.
  const url = new URL(address, location.origin + location.pathname);
  const response = await orFail(fetch(url, options), UNREACHABLE);
  if (!response.ok) throw new RequestFailure(await errorMessage(response), response.status);
  return response;
}

export function post(address, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return fetchOrFail(address, { method: "POST", headers, body: JSON.stringify(body), signal });
}

function parsed(data) {
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    throw new RequestFailure(NOT_JSON);
  }
  if (event.error) throw new RequestFailure(sentence(event.error.message));
  return event;
}

/** The events of a text/event-stream response, until [DONE]. Raises RequestFailure for an event with an error. */
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
      yield parsed(data);
    }
  }
}
