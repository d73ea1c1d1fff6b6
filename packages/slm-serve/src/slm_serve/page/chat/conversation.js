import { latest, load, save } from "../shared/storage.js";

const STORED_AS = "slm-playground-chat";
const MAX_TURNS = 200;
const MAX_CHARACTERS = 2_000_000;

/** The answer of a model to a turn; the first answer if the model gave none. Undefined if it has no text. */
function answerOf(turn, model) {
  const answer = turn.answers.find((candidate) => candidate.model === model) ?? turn.answers[0];
  return answer?.text.trim() ? answer : undefined;
}

/** Messages of the system prompt and of the turns that have an answer; others are left out. */
function messagesOf(system, turns, model) {
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    const answer = answerOf(turn, model);
    if (!answer) continue;
    messages.push({ role: "user", content: turn.user }, { role: "assistant", content: answer.text.trim() });
  }
  return messages;
}

/** A system prompt and turns: { user, answers: [{ model, text, figures, error }] }. */
export class Conversation {
  constructor({ system = "", turns = [] } = load(STORED_AS) ?? {}) {
    this.system = system;
    this.turns = turns;
  }

  get isEmpty() {
    return this.turns.length === 0;
  }

  /** Store the conversation in the browser. Returns whether all of its turns are stored. */
  save() {
    if (this.isEmpty && !this.system) return save(STORED_AS, undefined);
    const turns = latest(this.turns, MAX_TURNS, MAX_CHARACTERS);
    return save(STORED_AS, { system: this.system, turns }) && turns.length === this.turns.length;
  }

  copy() {
    return structuredClone({ system: this.system, turns: this.turns });
  }

  restore({ system, turns }) {
    Object.assign(this, { system, turns });
  }

  /** Add a turn of the user that is not answered yet, in place of the turns from `index` on. */
  ask(user, index = this.turns.length) {
    const turn = { user, answers: [] };
    this.turns.splice(index, Infinity, turn);
    return turn;
  }

  /** The messages that `model` gets to answer the turn `index`. */
  prompt(model, index) {
    const messages = messagesOf(this.system, this.turns.slice(0, index), model);
    return [...messages, { role: "user", content: this.turns[index].user }];
  }

  /** The messages for a new turn; a `draft` that is not empty is the last. */
  messages(model, draft = "") {
    const messages = messagesOf(this.system, this.turns, model);
    return draft.trim() ? [...messages, { role: "user", content: draft }] : messages;
  }

  /** The names of the models that answered, the latest turn first. */
  get models() {
    return [...new Set(this.turns.toReversed().flatMap(({ answers }) => answers.map(({ model }) => model)))];
  }

  get isComparison() {
    return this.turns.some(({ answers }) => answers.length > 1);
  }
}
