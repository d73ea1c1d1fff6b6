import { byId, element } from "../shared/dom.js";
import { download, fileName } from "../shared/files.js";
import { latest, load, save } from "../shared/storage.js";

const STORED_AS = "slm-playground-runs";
const MAX_RUNS = 50;
const MAX_CHARACTERS = 1_000_000;
const SHOWN_CHARACTERS = 160;

const section = byId("runs");
const list = byId("run-list");
let runs = load(STORED_AS) ?? []; // the oldest first
let open = () => {};


function entry(run) {
  const [first] = run.results;
  const models = run.results.map(({ model }) => model).join(", ");
  const when = new Date(run.time).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  const row = element("button", { type: "button" });
  row.append(
    element("span", { className: "excerpt" }, element("b", {}, run.prompt.slice(0, SHOWN_CHARACTERS)), first.text.slice(0, SHOWN_CHARACTERS)),
    element("small", {}, `${models} · ${when}`),
  );
  row.addEventListener("click", () => open(run));
  return element("li", {}, row);
}

function show() {
  section.hidden = runs.length === 0;
  list.replaceChildren(...runs.toReversed().map(entry));
}

/** Add a run, or update it: { time, prompt, settings, compare, results: [{ model, prompt, text, figures }] }. */
export function remember(run) {
  if (run.results.every(({ text }) => text === "")) return;
  runs = latest([...runs.filter(({ time }) => time !== run.time), run], MAX_RUNS, MAX_CHARACTERS);
  save(STORED_AS, runs);
  show();
}

/** Show the stored runs; `onOpen` is called with the run that the user picks. */
export function showRuns(onOpen) {
  open = onOpen;
  show();
}

byId("clear-runs").addEventListener("click", () => {
  runs = [];
  save(STORED_AS, undefined);
  show();
  byId("prompt").focus();
});
byId("export-runs").addEventListener("click", () =>
  download(fileName("slm-runs", "json"), "application/json", JSON.stringify(runs, null, 2)),
);
