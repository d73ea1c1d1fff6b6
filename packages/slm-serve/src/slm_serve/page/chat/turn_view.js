import { GrowingText, button, element, figures } from "../shared/dom.js";
import { copyFrom } from "../shared/files.js";
import { heading } from "../shared/models.js";
import { Timing } from "../shared/timing.js";

/** What is shown of the values of an answer; exports contain all. */
const shownFigures = ({ seconds, "prompt tokens": promptTokens, ...values }) => figures(values);

/** A text area in place of a text. Enter saves, Escape cancels. */
function editor(text, label, onSave, onCancel) {
  const area = element("textarea", { value: text, rows: 2, ariaLabel: label });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") onCancel();
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) onSave(area.value);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const save = button("Save", () => onSave(area.value), { className: "primary" });
  return element("div", { className: "editor" }, area, element("div", { className: "actions-row" }, save, button("Cancel", onCancel)));
}

/** A text that the user can edit in place; `onEdit` is called with the new text. */
class EditableTurn {
  edit(text, label, onEdit) {
    const close = () => {
      form.remove();
      this.element.classList.remove("edited");
      this.editButton.focus();
    };
    const save = (edited) => (edited.trim() === "" || edited === text ? close() : onEdit(edited));
    const form = editor(text, label, save, close);
    this.element.classList.add("edited");
    this.element.append(form);
    form.firstElementChild.focus();
  }
}

/** The user's message of a turn. */
export class QuestionView extends EditableTurn {
  constructor(turn, onEdit) {
    super();
    this.element = element("article", { className: "question" });
    this.editButton = button("Edit", () => this.edit(turn.user, "Edit message", onEdit));
    const copyButton = button("Copy", () => copyFrom(copyButton, turn.user));
    this.element.append(
      element("h3", { className: "visually-hidden" }, "You"),
      element("p", { className: "text" }, turn.user),
      element("div", { className: "actions-row" }, this.editButton, copyButton),
    );
  }
}

/** One model's answer to a turn. */
export class AnswerView extends EditableTurn {
  /** `onEdit` is called with the corrected text, `onRegenerate` without arguments, `onContinue`, if any, with this. */
  constructor(answer, { onEdit, onRegenerate, onContinue }) {
    super();
    Object.assign(this, { answer, onContinue });
    this.element = element("article", { className: "answer" });
    this.error = element("p", { className: "error", hidden: true });
    this.note = element("p", { className: "hint" });
    this.figures = element("dl");
    this.body = element("p", { className: "text continuation" });
    this.editButton = button("Edit", () => this.edit(answer.text.trim(), "Edit answer", onEdit));
    this.copyButton = button("Copy", () => copyFrom(this.copyButton, answer.text.trim()));
    this.continueButton = button("Continue", () => onContinue(this));
    this.actions = element("div", { className: "actions-row" });
    this.actions.append(button("Regenerate", onRegenerate), this.continueButton, this.editButton, this.copyButton);
    const footer = element("footer", {}, this.actions, this.figures);
    this.element.append(heading(answer.model), this.error, this.body, this.note, footer);
    this.text = new GrowingText(this.body, answer.text.trimStart());
    this.showEnd();
  }

  start(seed) {
    this.timing = new Timing(seed, this.answer.figures);
    this.error.hidden = true;
    this.element.ariaBusy = "true";
    this.actions.hidden = true;
    this.note.textContent = "";
    this.body.hidden = false;
  }

  add(delta) {
    this.answer.text += delta.text;
    this.text.append(this.text.value ? delta.text : delta.text.trimStart());
    this.timing.update(delta);
    this.show();
  }

  end(reason) {
    if (reason) this.timing.end(reason);
    this.show();
    this.showEnd();
  }

  fail(message) {
    this.answer.error = message;
    this.end("error");
  }

  show() {
    this.answer.figures = this.timing.shown;
    this.figures.replaceChildren(...shownFigures(this.timing.shown));
  }

  /** Show the answer as it is when nothing is added to it. */
  showEnd() {
    const { text, error, figures: shown } = this.answer;
    const hasText = text.trim() !== "";
    this.element.ariaBusy = "false";
    this.actions.hidden = false;
    this.body.hidden = !hasText;
    this.continueButton.hidden = !hasText || !this.onContinue || shown["finish reason"] === "stop";
    this.editButton.hidden = this.copyButton.hidden = !hasText;
    this.error.hidden = !error;
    this.error.textContent = error ?? "";
    this.note.textContent = hasText ? "" : "No answer: this turn is left out of the conversation that the model sees.";
    this.figures.replaceChildren(...shownFigures(shown));
  }
}
