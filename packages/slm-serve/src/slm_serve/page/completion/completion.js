import { byId } from "../shared/dom.js";
import { continuation, streamInto } from "../shared/generation.js";
import * as models from "../shared/models.js";
import { RunControl } from "../shared/run_control.js";
import * as settings from "../shared/settings.js";
import { limitToFit } from "../shared/token_limit.js";
import { Result } from "./result.js";
import { remember, showRuns } from "./run_history.js";

export const form = byId("ask");
const prompt = form.elements.prompt;
const output = byId("output");
const outputSection = byId("output-section");
const allowsMotion = matchMedia("(prefers-reduced-motion: no-preference)");
let isShowingOutput = false; // until the user scrolls elsewhere

export const control = new RunControl({
  stop: byId("stop"),
  status: byId("status"),
  focusAfterStop: byId("generate"),
});

/** What the limit of new tokens depends on. */
export const inputs = () => models.chosen().map((model) => ({ model, prompt: prompt.value }));

/** Scroll to the output if it is below the middle of the screen, as on a phone. */
function showOutput() {
  isShowingOutput = outputSection.getBoundingClientRect().top > innerHeight / 2;
  const behavior = allowsMotion.matches ? "smooth" : "instant";
  if (isShowingOutput) outputSection.scrollIntoView({ block: "start", behavior });
}

/** The page may have become long enough to show the output at its top. */
function outputGrew() {
  if (isShowingOutput) outputSection.scrollIntoView({ block: "start", behavior: "instant" });
}

function showResults(run) {
  const results = run.results.map((record) => new Result(record, (result) => continueResult(run, result)));
  output.replaceChildren(...results.map(({ element }) => element));
  return results;
}

function checkPrompt() {
  const isEmpty = prompt.value.trim() === "";
  prompt.ariaInvalid = String(isEmpty);
  if (!isEmpty) return true;
  control.fail("Write a prompt first; the model continues it.");
  prompt.focus();
  return false;
}

/** Send the text so far of each result, and add what comes back. Returns the messages of failures. */
async function stream(run, results, signal) {
  const body = { ...settings.sampling(), use_cache: settings.useCache() };
  for (const result of results) result.start(body.seed);
  const requests = results.map((result) => {
    const { model, prompt, text } = result.record;
    return streamInto(result, continuation({ ...body, prompt: prompt + text, adapter: model }, signal), signal);
  });
  const problems = await Promise.all(requests);
  remember(run);
  return problems.filter(Boolean);
}

/** Continue the prompt by the chosen models. */
export function generate() {
  if (!checkPrompt() || !settings.areValid()) return;
  const shared = { prompt: prompt.value, settings: settings.values(), compare: models.chosen().length > 1 };
  const records = models.chosen().map((model) => ({ model, prompt: prompt.value, text: "", figures: {} }));
  const run = { time: Date.now(), ...shared, results: records };
  control.run(async (signal) => {
    const results = showResults(run);
    showOutput();
    await limitToFit(inputs(), signal);
    return stream(run, results, signal);
  });
}

/** Continue a text that has ended. */
function continueResult(run, result) {
  if (!settings.areValid()) return;
  const { model, prompt, text } = result.record;
  control.run(async (signal) => {
    await limitToFit([{ model, prompt: prompt + text }], signal);
    return stream(run, [result], signal);
  });
}

function openRun(run) {
  control.stop();
  isShowingOutput = false;
  prompt.value = run.prompt;
  settings.restore(run.settings);
  models.choose(run.results.map(({ model }) => model), run.compare);
  showResults(run);
  form.dispatchEvent(new Event("input", { bubbles: true }));
  outputSection.scrollIntoView({ block: "nearest" });
}

prompt.addEventListener("input", () => (prompt.ariaInvalid = "false"));
new ResizeObserver(outputGrew).observe(output);
for (const type of ["wheel", "touchstart", "pointerdown", "keydown"]) {
  addEventListener(type, () => (isShowingOutput = false), { capture: true, passive: true });
}
showRuns(openRun);
