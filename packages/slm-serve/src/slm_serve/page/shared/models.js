import { byId, element } from "./dom.js";
import { fetchOrFail } from "./requests.js";

export const form = byId("models");
const { model, other, compare } = form.elements;
let cards = [];

export const areLoaded = () => cards.length > 0;
const card = (id) => cards.find((candidate) => candidate.id === id);
export const contextLength = (id) => card(id)?.max_model_len;

/** What a model is; models served by transformers' own generation, which is slower, are marked. */
export function description(id) {
  if (!card(id)) return "no longer served";
  const { kind, parent, backend } = card(id);
  return (kind === "adapter" ? `adapter of ${parent}` : kind) + (backend === "transformers" ? ", transformers" : "");
}

/** The names of the chosen models: one, or two to compare. */
export const chosen = () => (compare.checked ? [model.value, other.value] : [model.value]);

/** A heading with a model's name and what it is. */
export const heading = (id) => element("h3", {}, id, " ", element("small", {}, description(id)));

function chooseOther() {
  const others = cards.filter(({ id }) => id !== model.value);
  other.value = (others.find(({ kind }) => kind === "base") ?? others[0] ?? cards[0]).id;
}

/** Choose models; those that are not served are replaced by the defaults. */
export function choose(ids, isComparison) {
  model.value = card(ids[0]) ? ids[0] : cards.find((candidate) => candidate.default).id;
  if (card(ids[1]) && ids[1] !== model.value) other.value = ids[1];
  else chooseOther();
  compare.disabled = byId("compare").hidden = cards.length < 2;
  compare.checked = isComparison && !compare.disabled;
  showChoice();
}

function showChoice() {
  other.hidden = !compare.checked;
}

/** Load the served models into the pickers. Raises RequestFailure. */
export async function load(stored) {
  cards = (await (await fetchOrFail("v1/models")).json()).data;
  for (const select of [model, other]) {
    select.replaceChildren(...cards.map(({ id }) => new Option(`${id} (${description(id)})`, id)));
  }
  model.disabled = false;
  choose([stored.model, stored.other], Boolean(stored.compare));
}

model.addEventListener("input", () => {
  if (model.value === other.value) chooseOther();
});
form.addEventListener("input", showChoice);
form.addEventListener("submit", (event) => event.preventDefault());
