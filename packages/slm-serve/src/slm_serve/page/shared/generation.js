import { CONNECTION_LOST, RequestFailure, events, post } from "./requests.js";

/** Fails if a stream ended without a reason. */
async function* complete(deltas) {
  let finished = false;
  for await (const delta of deltas) {
    finished ||= Boolean(delta.finishReason);
    yield delta;
  }
  if (!finished) throw new RequestFailure(CONNECTION_LOST);
}

async function* completionDeltas(body, signal) {
  const response = await post("generate", { ...body, stream: true }, signal);
  for await (const event of events(response.body)) {
    yield {
      text: event.text,
      tokens: event.completion_tokens,
      promptTokens: event.prompt_tokens,
      seconds: event.seconds,
      rate: event.tokens_per_second,
      finishReason: event.finish_reason,
    };
  }
}

async function* chatDeltas(body, signal) {
  const options = { stream: true, stream_options: { include_usage: true } };
  const response = await post("v1/chat/completions", { ...body, ...options }, signal);
  for await (const { choices, usage } of events(response.body)) {
    yield {
      text: choices[0]?.delta?.content ?? "",
      tokens: usage?.completion_tokens,
      promptTokens: usage?.prompt_tokens,
      finishReason: choices[0]?.finish_reason,
    };
  }
}

/** The pieces of a continuation, by POST /generate. */
export const continuation = (body, signal) => complete(completionDeltas(body, signal));

/** The pieces of an answer, by POST /v1/chat/completions. */
export const answer = (body, signal) => complete(chatDeltas(body, signal));

/**
 * Adds the pieces of a text to a view. Returns the message of a failure, or null.
 * A failure that is a 404 is announced, because the list of models may be out of date.
 */
export async function streamInto(view, deltas, signal) {
  try {
    for await (const delta of deltas) view.add(delta);
    view.end();
  } catch (error) {
    if (signal.aborted) view.end("stopped");
    else if (error instanceof RequestFailure) view.fail(error.message);
    else throw error;
    if (error.status === 404) document.dispatchEvent(new Event("models-outdated"));
    return signal.aborted ? null : error.message;
  }
  return null;
}
