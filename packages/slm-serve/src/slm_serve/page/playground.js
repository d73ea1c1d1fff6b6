import { CONNECTION_LOST, RequestFailure, events, fetchOrFail, sentence } from "./protocol.js";

const STORED_AS = "slm-playground";
const VALUE_LABELS = {
  temperature: { 0: "greedy" },
  top_p: { 1: "off" },
  top_k: { 0: "off" },
  min_p: { 0: "off" },
  repetition_penalty: { 1: "off" },
};

const byId = (id) => document.getElementById(id);
const [ask, settings, output, stopButton] = ["ask", "settings", "output", "stop"].map(byId);
const { prompt, model, compare, other } = ask.elements;
const fields = [...ask.elements, ...settings.elements].filter((field) => field.name);
const sliders = fields.filter((field) => field.type === "range");
const maxNewTokens = Number(settings.elements.max_new_tokens.max);

let models = [];
let running = null;

function stopStrings() {
  const lines = settings.elements.stop.value.split("\n").filter((line) => line !== "");
  return lines.length ? lines.map((line) => line.replaceAll("\\n", "\n")) : null;
}

/** The seed of the field, or a random one, which is shown with the text so that the text can be repeated. */
function chosenSeed() {
  const { value, valueAsNumber } = settings.elements.seed;
  return value === "" ? crypto.getRandomValues(new Uint32Array(1))[0] >>> 1 : valueAsNumber;
}

function request() {
  return {
    prompt: prompt.value,
    ...Object.fromEntries(sliders.map(({ name, valueAsNumber }) => [name, valueAsNumber])),
    stop: stopStrings(),
    seed: chosenSeed(),
    stream: true,
    use_cache: settings.elements.use_cache.checked,
  };
}

const chosenModels = () => (compare.checked ? [model.value, other.value] : [model.value]);

/** What a model is; models served by transformers' own generation, which is slower, are marked. */
const origin = ({ kind, parent, backend }) =>
  (kind === "adapter" ? `adapter of ${parent}` : kind) + (backend === "transformers" ? ", transformers" : "");

function figure([name, value]) {
  const pair = document.createElement("div");
  for (const [tag, text] of [["dt", name], ["dd", value]]) {
    pair.appendChild(document.createElement(tag)).textContent = text;
  }
  return pair;
}

/** One model's continuation of the prompt. */
class Column {
  constructor(id, { prompt, seed }) {
    this.element = byId("column").content.firstElementChild.cloneNode(true);
    const [heading, shownPrompt, continuation, error, figures] = ["h3", ".prompt", ".continuation", ".error", "dl"].map(
      (selector) => this.element.querySelector(selector),
    );
    Object.assign(this, { error, figures, shown: {}, seed, since: performance.now(), finished: false });
    const kind = document.createElement("small");
    kind.textContent = origin(models.find((candidate) => candidate.id === id));
    heading.append(id, " ", kind);
    shownPrompt.textContent = prompt;
    this.text = continuation.appendChild(document.createTextNode(""));
    this.element.ariaBusy = "true";
  }

  add(event) {
    if (event.error) throw new RequestFailure(sentence(event.error.message));
    this.text.appendData(event.text);
    const seconds = event.seconds ?? (performance.now() - this.since) / 1000;
    const rate = event.tokens_per_second ?? event.completion_tokens / seconds;
    this.show({ tokens: event.completion_tokens, "tokens/s": rate.toFixed(1), seconds: seconds.toFixed(2) });
    if (!event.finish_reason) return;
    this.end(event.finish_reason);
    this.show({ "prompt tokens": event.prompt_tokens });
  }

  end(reason) {
    if (this.finished) return;
    this.finished = true;
    this.element.ariaBusy = "false";
    this.show({ "finish reason": reason, seed: this.seed });
  }

  fail(message) {
    this.element.ariaBusy = "false";
    this.error.textContent = message;
    this.error.hidden = false;
  }

  show(values) {
    Object.assign(this.shown, values);
    this.figures.replaceChildren(...Object.entries(this.shown).map(figure));
  }
}

function showSliders() {
  for (const slider of sliders) {
    const label = VALUE_LABELS[slider.name]?.[slider.value] ?? slider.value;
    settings.querySelector(`output[for=${slider.id}]`).value = slider.ariaValueText = label;
  }
}

/** Updates everything that depends on the controls. */
function refresh() {
  const lengths = models.filter(({ id }) => chosenModels().includes(id)).map((model) => model.max_model_len);
  settings.elements.max_new_tokens.max = Math.min(maxNewTokens, ...lengths);
  other.hidden = !compare.checked;
  showSliders();
}

function showRunning(controller, status) {
  running = controller;
  if (!controller && document.activeElement === stopButton) byId("generate").focus();
  stopButton.hidden = !controller;
  byId("status").textContent = status;
}

async function continueInto(column, body, signal) {
  try {
    const headers = { "Content-Type": "application/json" };
    const response = await fetchOrFail("generate", { method: "POST", headers, body: JSON.stringify(body), signal });
    for await (const event of events(response.body)) column.add(event);
    if (!column.finished) throw new RequestFailure(CONNECTION_LOST);
  } catch (error) {
    if (signal.aborted) column.end("stopped");
    else if (error instanceof RequestFailure) column.fail(error.message);
    else throw error;
  }
}

async function generate() {
  running?.abort();
  const controller = new AbortController();
  showRunning(controller, "Generating…");
  const body = request();
  const adapters = chosenModels();
  const columns = adapters.map((adapter) => new Column(adapter, body));
  output.replaceChildren(...columns.map(({ element }) => element));
  output.scrollIntoView({ block: "nearest" });
  await Promise.all(
    columns.map((column, index) => continueInto(column, { ...body, adapter: adapters[index] }, controller.signal)),
  );
  if (running !== controller) return;
  const complete = columns.every((column) => column.finished);
  showRunning(null, controller.signal.aborted ? "Stopped." : complete ? "Finished." : "");
}

function pickOther() {
  const others = models.filter(({ id }) => id !== model.value);
  other.value = (others.find(({ kind }) => kind === "base") ?? others[0] ?? models[0]).id;
}

function showModels(stored) {
  for (const select of [model, other]) {
    select.replaceChildren(...models.map((model) => new Option(`${model.id} (${origin(model)})`, model.id)));
  }
  const isServed = (id) => models.some((model) => model.id === id);
  model.disabled = false;
  model.value = isServed(stored.model) ? stored.model : models.find((candidate) => candidate.default).id;
  if (isServed(stored.other)) other.value = stored.other;
  else pickOther();
  compare.disabled = models.length < 2;
  compare.checked &&= !compare.disabled;
  byId("compare-hint").textContent = compare.disabled ? "Only one model is served, so there is none to compare it with." : "";
  refresh();
}

/** Loads the served models into the pickers, or shows why that failed. */
async function loadModels() {
  try {
    models = (await (await fetchOrFail("v1/models")).json()).data;
    showModels(stored());
  } catch (error) {
    if (!(error instanceof RequestFailure)) throw error;
    const message = document.createElement("p");
    message.className = "error";
    message.role = "alert";
    message.textContent = error.message;
    output.replaceChildren(message);
  }
}

async function submit(event) {
  event.preventDefault();
  if (!settings.reportValidity()) return;
  if (!models.length) await loadModels();
  if (models.length) await generate();
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORED_AS)) ?? {};
  } catch {
    return {}; // local storage is disabled in the browser
  }
}

function store() {
  const values = fields.map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]);
  try {
    localStorage.setItem(STORED_AS, JSON.stringify(Object.fromEntries(values)));
  } catch {
    // local storage is disabled in the browser
  }
}

function restore(values) {
  for (const field of fields.filter(({ name }) => name in values)) {
    if (field.type === "checkbox") field.checked = values[field.name];
    else field.value = values[field.name];
  }
  settings.querySelector("details").open = settings.elements.stop.value !== "";
}

function changed() {
  refresh();
  store();
}

model.addEventListener("input", () => {
  if (model.value === other.value) pickOther();
});
for (const form of [ask, settings]) {
  form.addEventListener("input", changed);
  form.addEventListener("submit", submit);
}
settings.addEventListener("reset", () => setTimeout(changed));
stopButton.addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  ask.requestSubmit();
});
if (navigator.platform.startsWith("Mac")) document.querySelector("kbd").textContent = "⌘";

restore(stored());
refresh();
loadModels();
