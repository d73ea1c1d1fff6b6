import { byId, element } from "../shared/dom.js";
import { answer, streamInto } from "../shared/generation.js";
import * as models from "../shared/models.js";
import { RunControl } from "../shared/run_control.js";
import * as settings from "../shared/settings.js";
import { limitToFit } from "../shared/token_limit.js";
import { Conversation } from "./conversation.js";
import { connectExports } from "./export_menu.js";
import { follow } from "./follow.js";
import { AnswerView, QuestionView } from "./turn_view.js";

export const form = byId("composer");
const message = form.elements.message;
const system = byId("system-prompt");
const turnList = byId("turns");
const undoButton = byId("undo");
const conversation = new Conversation();
let replaced; // the conversation before the latest change that removed turns

export const control = new RunControl({
  stop: byId("stop-chat"),
  status: byId("chat-status"),
  focusAfterStop: message,
});

/** What the limit of new tokens depends on. */
export const inputs = () =>
  models.chosen().map((model) => ({ model, messages: conversation.messages(model, message.value) }));

function changed() {
  const isComplete = conversation.save();
  undoButton.hidden = !replaced;
  byId("clear-chat").disabled = conversation.isEmpty;
  document.dispatchEvent(new Event("prompt-changed"));
  return isComplete;
}

function answerView(record, index) {
  const isLast = index === conversation.turns.length - 1;
  return new AnswerView(record, {
    onEdit: (text) => correct(record, text),
    onRegenerate: () => ask(conversation.turns[index].user, index),
    onContinue: isLast ? (view) => continueAnswer(view, index) : undefined,
  });
}

function correct(record, text) {
  control.stop();
  record.text = text;
  delete record.error;
  render();
  changed();
}

function continueAnswer(view, index) {
  if (!settings.areValid()) return;
  delete view.answer.error;
  control.run((signal) => streamAnswers([view], index, signal));
}

function turnViews(turn, index) {
  const question = new QuestionView(turn, (text) => ask(text, index));
  const answers = turn.answers.map((record) => answerView(record, index));
  const group = element("div", { className: "answers" }, ...answers.map(({ element }) => element));
  return { elements: [question.element, group], answers };
}

/** Show all turns. Returns the views of the answers to the last one. */
function render() {
  const views = conversation.turns.map(turnViews);
  const hint = element("p", { className: "empty" }, "Write the first message. The conversation is kept in this browser only.");
  turnList.replaceChildren(...(views.length ? views.flatMap(({ elements }) => elements) : [hint]));
  return views.at(-1)?.answers ?? [];
}

/** Replace the turns from `index` on by a turn of the user, and let the chosen models answer it. */
function ask(text, index = conversation.turns.length) {
  if (!settings.areValid()) return;
  control.stop();
  if (index < conversation.turns.length) replaced = conversation.copy();
  const turn = conversation.ask(text, index);
  turn.answers = models.chosen().map((model) => ({ model, text: "", figures: {} }));
  const views = render();
  changed();
  message.focus({ preventScroll: true });
  follow.start();
  control.run((signal) => streamAnswers(views, index, signal));
}

/** The request for an answer, or for more of it if it has text. */
function request({ model, text }, index) {
  const messages = conversation.prompt(model, index);
  if (text === "") return { model, messages };
  messages.push({ role: "assistant", content: text.trimStart() });
  return { model, messages, continue_final_message: true, add_generation_prompt: false };
}

async function streamAnswers(views, index, signal) {
  const bodies = views.map(({ answer }) => request(answer, index));
  for (const view of views) view.start();
  await limitToFit(bodies.map(({ model, messages }) => ({ model, messages })), signal).catch((error) => {
    for (const view of views) view.end("stopped");
    throw error;
  });
  const { max_new_tokens: max_tokens, ...sampling } = settings.sampling();
  const requests = views.map((view, position) => {
    view.start(sampling.seed);
    return streamInto(view, answer({ ...bodies[position], ...sampling, max_tokens }, signal), signal);
  });
  const problems = await Promise.all(requests);
  if (!changed()) problems.push("The conversation is too long for the browser's storage: only its latest turns are kept.");
  return problems.filter(Boolean);
}

/** Send the message in the composer. */
export function send() {
  const text = message.value;
  message.ariaInvalid = String(text.trim() === "");
  if (text.trim() === "") {
    control.fail("Write a message first.");
    message.focus();
    return;
  }
  if (!settings.areValid()) return;
  message.value = "";
  ask(text);
}

function clear() {
  control.stop();
  replaced = conversation.copy();
  conversation.restore({ system: conversation.system, turns: [] });
  render();
  changed();
  control.say("The conversation was cleared.");
  undoButton.focus();
}

function undo() {
  control.stop();
  conversation.restore(replaced);
  replaced = undefined;
  system.value = conversation.system;
  render();
  changed();
  control.say("The conversation was restored.");
  message.focus();
}

message.addEventListener("input", () => (message.ariaInvalid = "false"));
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
system.addEventListener("input", () => {
  conversation.system = system.value;
  changed();
});
byId("clear-chat").addEventListener("click", clear);
undoButton.addEventListener("click", undo);
addEventListener("pagehide", () => control.isRunning && conversation.save());
new ResizeObserver(() => follow.scroll()).observe(turnList);
connectExports(conversation, (text) => control.fail(text));

system.value = conversation.system;
byId("system").open = conversation.system !== "";

/** Called when the user changes to this mode. */
export const enter = () => follow.start();

/** Show the stored conversation, once the models are known. */
export function show() {
  if (control.isRunning) return;
  render();
  byId("clear-chat").disabled = conversation.isEmpty;
}
