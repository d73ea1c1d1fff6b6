import { byId } from "./dom.js";
import { readFields, writeFields } from "./fields.js";

const VALUE_LABELS = {
  temperature: { 0: "greedy" },
  top_p: { 1: "off" },
  top_k: { 0: "off" },
  min_p: { 0: "off" },
  repetition_penalty: { 1: "off" },
};

export const form = byId("settings");
const sliders = [...form.elements].filter(({ type }) => type === "range");
const newTokens = form.elements.max_new_tokens;
const hint = byId("max_new_tokens-hint");
const defaultHint = hint.textContent;
const largest = Number(newTokens.max);
newTokens.dataset.wanted = newTokens.value; // what the user chose, even while less fits

export function showValues() {
  for (const slider of sliders) {
    const label = VALUE_LABELS[slider.name]?.[slider.value] ?? slider.value;
    form.querySelector(`output[for=${slider.id}]`).value = slider.ariaValueText = label;
  }
}

/**
 * Limit the new tokens to what fits.
 * `space` has the context length and the number of tokens in the prompt, undefined if unknown.
 */
export function limitNewTokens({ context = largest, promptTokens }) {
  const remaining = context - (promptTokens ?? 0);
  newTokens.max = Math.min(largest, Math.max(1, remaining));
  newTokens.value = newTokens.dataset.wanted;
  hint.classList.toggle("problem", remaining < 1);
  if (remaining < 1) hint.textContent = `${promptTokens} tokens do not fit into the context of ${context}.`;
  else if (promptTokens) hint.textContent = `${promptTokens} of ${context} tokens are used.`;
  else hint.textContent = defaultHint;
  showValues();
}

function stopStrings() {
  const lines = form.elements.stop.value.split("\n").filter((line) => line !== "");
  return lines.length ? lines.map((line) => line.replaceAll("\\n", "\n")) : null;
}

/** The seed of the field, or a random one, which is shown with the text so that the text can be repeated. */
function seed() {
  const { value, valueAsNumber } = form.elements.seed;
  return value === "" ? crypto.getRandomValues(new Uint32Array(1))[0] >>> 1 : valueAsNumber;
}

/** The fields of a request, under the names of POST /generate. */
export function sampling() {
  const numbers = sliders.map(({ name, valueAsNumber }) => [name, valueAsNumber]);
  return { ...Object.fromEntries(numbers), stop: stopStrings(), seed: seed() };
}

export const useCache = () => form.elements.use_cache.checked;

/** Whether all values are valid. If not, the first that is not gets the focus. */
export function areValid() {
  if (!form.checkValidity()) byId("settings-panel").open = true;
  return form.reportValidity();
}

export const values = () => readFields(form);

export function restore(stored) {
  writeFields(form, stored);
  showValues();
}

newTokens.addEventListener("input", () => (newTokens.dataset.wanted = newTokens.value));
form.addEventListener("input", showValues);
form.addEventListener("reset", () => (newTokens.dataset.wanted = newTokens.defaultValue));
