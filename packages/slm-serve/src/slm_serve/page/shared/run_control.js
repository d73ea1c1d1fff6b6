/** The running request of a mode: its buttons and its status line. */
export class RunControl {
  constructor({ stop, status, focusAfterStop }) {
    Object.assign(this, { stopButton: stop, status, focusAfterStop, controller: null });
    stop.addEventListener("click", () => this.stop());
  }

  get isRunning() {
    return this.controller !== null;
  }

  say(text, isProblem = false) {
    this.status.textContent = text;
    this.status.classList.toggle("problem", isProblem);
  }

  fail(text) {
    this.say(text, true);
  }

  stop() {
    this.controller?.abort();
  }

  /**
   * Runs `work(signal)`, which returns the messages of failures, and says how it ended. A new run cancels the previous
   * one, which then says nothing.
   */
  async run(work) {
    this.stop();
    const controller = new AbortController();
    this.controller = controller;
    this.stopButton.hidden = false;
    this.say("Generating…");
    let problems = [];
    try {
      problems = await work(controller.signal);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      if (this.controller === controller) this.finish(problems, controller.signal.aborted);
    }
  }

  finish(problems, isStopped) {
    this.controller = null;
    if (document.activeElement === this.stopButton) this.focusAfterStop.focus();
    this.stopButton.hidden = true;
    if (problems.length) this.fail([...new Set(problems)].join(" "));
    else this.say(isStopped ? "Stopped." : "Finished.");
  }
}
