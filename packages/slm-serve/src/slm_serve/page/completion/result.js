import { GrowingText, button, element, figures } from "../shared/dom.js";
import { copyFrom } from "../shared/files.js";
import { heading } from "../shared/models.js";
import { Timing } from "../shared/timing.js";

/** One model's continuation of the prompt, on the page. */
export class Result {
  /** `record` is { model, prompt, text, figures }; `onContinue` is called with the result. */
  constructor(record, onContinue) {
    this.record = record;
    this.error = element("p", { className: "error", hidden: true });
    this.continuation = element("span", { className: "continuation" });
    this.figures = element("dl");
    this.actions = element("div", { className: "actions-row" });
    const copyButton = button("Copy", () => copyFrom(copyButton, record.prompt + record.text));
    this.actions.append(button("Continue", () => onContinue(this)), copyButton);
    const text = element("p", { className: "text" });
    text.append(element("span", { className: "prompt" }, record.prompt), this.continuation);
    this.element = element("article", { className: "card" });
    this.element.append(heading(record.model), this.error, text, this.figures, this.actions);
    this.text = new GrowingText(this.continuation, record.text);
    this.show(record.figures);
  }

  /** Prepare for more text, made with this seed. */
  start(seed) {
    this.timing = new Timing(seed, this.record.figures);
    this.error.hidden = true;
    this.element.ariaBusy = "true";
    this.actions.hidden = true;
  }

  add(delta) {
    this.record.text += delta.text;
    this.text.append(delta.text);
    this.timing.update(delta);
    this.show(this.timing.shown);
  }

  end(reason) {
    if (reason) this.timing.end(reason);
    this.show(this.timing.shown);
    this.element.ariaBusy = "false";
    this.actions.hidden = this.record.text === "";
  }

  fail(message) {
    this.error.textContent = message;
    this.error.hidden = false;
    this.end();
  }

  show(values) {
    this.record.figures = values;
    this.figures.replaceChildren(...figures(values));
  }
}
