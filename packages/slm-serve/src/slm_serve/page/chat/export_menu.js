import { byId } from "../shared/dom.js";
import { copy, download, fileName } from "../shared/files.js";
import * as settings from "../shared/settings.js";
import { asJson, asMarkdown, asTrainingData } from "./exports.js";

const menu = byId("export");

/** What each entry of the menu does. */
const ACTIONS = {
  copy: (conversation) => copy(asMarkdown(conversation)),
  markdown: (conversation) => download(fileName("slm-chat", "md"), "text/markdown", asMarkdown(conversation)),
  json: (conversation) =>
    download(fileName("slm-chat", "json"), "application/json", asJson(conversation, settings.values())),
  training: (conversation) =>
    download(fileName("slm-chat", "jsonl"), "application/jsonl", asTrainingData(conversation)),
};

function close() {
  if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
  menu.open = false;
}

/** Connect the menu to a conversation; `report` is called with a sentence if there is nothing to export. */
export function connectExports(conversation, report) {
  menu.addEventListener("click", (event) => {
    const name = event.target.dataset.export;
    if (!name) return;
    close();
    if (asTrainingData(conversation) === "") report("There is no answered turn to export.");
    else ACTIONS[name](conversation);
  });
}

menu.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !menu.open) return;
  event.stopPropagation();
  close();
});
document.addEventListener("click", (event) => {
  if (!menu.contains(event.target)) menu.open = false;
});
