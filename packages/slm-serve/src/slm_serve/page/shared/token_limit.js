import { contextLength } from "./models.js";
import { RequestFailure, post } from "./requests.js";
import { limitNewTokens } from "./settings.js";

const DELAY = 300; // milliseconds after the last key
let timer;
let pending;

/** The number of tokens that `input` has for a model; undefined if the server cannot tell. */
async function countTokens({ model, ...input }, signal) {
  if (!input.prompt && !input.messages?.length) return 0;
  try {
    return (await (await post("tokenize", { model, ...input }, signal)).json()).count;
  } catch (error) {
    if (error instanceof RequestFailure) return undefined; // the request for the text reports the problem
    throw error;
  }
}

/**
 * Limit the slider of new tokens to what fits into the context of each model.
 * Each of `inputs` has a model's name and its prompt or messages.
 */
export async function limitToFit(inputs, signal) {
  clearTimeout(timer);
  pending?.abort();
  const counts = await Promise.all(inputs.map((input) => countTokens(input, signal)));
  if (signal?.aborted) return;
  const spaces = inputs.map(({ model }, index) => ({ context: contextLength(model), promptTokens: counts[index] }));
  const remaining = ({ context, promptTokens = 0 }) => context - promptTokens;
  limitNewTokens(spaces.reduce((least, space) => (remaining(space) < remaining(least) ? space : least)));
}

/** The same, once the user has stopped typing or after `delay` milliseconds; `inputs` is a function. */
export function limitSoon(inputs, delay = DELAY) {
  clearTimeout(timer);
  pending?.abort();
  timer = setTimeout(() => {
    const controller = new AbortController();
    limitToFit(inputs(), controller.signal).catch((error) => {
      if (error.name !== "AbortError") throw error;
    });
    pending = controller;
  }, delay);
}
