import * as chat from "./chat/chat.js";
import * as completion from "./completion/completion.js";
import { byId } from "./shared/dom.js";
import { readFields, writeFields } from "./shared/fields.js";
import * as models from "./shared/models.js";
import { RequestFailure } from "./shared/requests.js";
import * as settings from "./shared/settings.js";
import { load, save } from "./shared/storage.js";
import { limitSoon } from "./shared/token_limit.js";

const STORED_AS = "slm-playground";
const RETRY_AFTER = 2000; // milliseconds, while the server loads its model
const modes = { completion, chat };
const modeForm = byId("modes");
const forms = [modeForm, models.form, completion.form, settings.form];
const notice = byId("notice");
const narrow = matchMedia("(max-width: 56rem)");

const stored = () => load(STORED_AS) ?? {};
const mode = () => modes[readFields(modeForm).mode];

function store() {
  const filled = forms.filter((form) => form !== models.form || models.areLoaded());
  save(STORED_AS, Object.assign(stored(), ...filled.map(readFields)));
}

function limitNewTokens(delay) {
  if (models.areLoaded()) limitSoon(() => mode().inputs(), delay);
}

function changed() {
  store();
  limitNewTokens();
}

/** On a phone, the settings are in front of everything else, and closed. */
function showSettings() {
  byId("settings-panel").open = !narrow.matches;
}

function showMode() {
  const { mode: name } = readFields(modeForm);
  document.body.dataset.mode = name;
  for (const id of Object.keys(modes)) byId(id).hidden = id !== name;
  if (name === "chat") chat.enter();
}

/** Load the served models. Returns whether that worked; if not, the problem is shown. */
async function loadModels(chosen = stored()) {
  try {
    await models.load(chosen);
  } catch (error) {
    if (!(error instanceof RequestFailure)) throw error;
    showLoadingProblem(error);
    return false;
  }
  if (!notice.hidden) for (const { control } of [completion, chat]) if (!control.isRunning) control.say("");
  notice.hidden = true;
  chat.show();
  limitNewTokens(0);
  return true;
}

/** Load the models again and keep the choice: adapters are added and removed while the server runs. */
function reloadModels() {
  if (models.areLoaded()) loadModels(readFields(models.form));
}

function showLoadingProblem({ message, status }) {
  const isTemporary = status === 503;
  notice.textContent = isTemporary ? `${message} This page tries again every two seconds.` : message;
  notice.className = isTemporary ? "waiting" : "error";
  notice.hidden = false;
  for (const { control } of [completion, chat]) control.say(message, !isTemporary);
  if (isTemporary) setTimeout(() => models.areLoaded() || loadModels(), RETRY_AFTER);
}

async function submit(event, start) {
  event.preventDefault();
  if (models.areLoaded() || (await loadModels())) start();
}

for (const form of forms) form.addEventListener("input", changed);
modeForm.addEventListener("input", showMode);
narrow.addEventListener("change", showSettings);
completion.form.addEventListener("submit", (event) => submit(event, completion.generate));
settings.form.addEventListener("submit", (event) => submit(event, mode() === chat ? chat.send : completion.generate));
settings.form.addEventListener("reset", () => setTimeout(changed));
chat.form.addEventListener("submit", (event) => submit(event, chat.send));
chat.form.addEventListener("input", () => limitNewTokens());
document.addEventListener("prompt-changed", () => limitNewTokens());
document.addEventListener("models-outdated", reloadModels);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && reloadModels());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") mode().control.stop();
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || mode() === chat) return;
  event.preventDefault();
  completion.form.requestSubmit();
});
if (navigator.platform.startsWith("Mac")) byId("ask").querySelector("kbd").textContent = "⌘";

for (const form of forms) writeFields(form, stored());
showSettings();
settings.showValues();
showMode();
loadModels();
