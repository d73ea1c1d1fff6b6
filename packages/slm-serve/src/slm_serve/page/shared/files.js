import { element } from "./dom.js";

/** Let the browser save a text as a file. */
export function download(name, type, text) {
  const link = element("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Copy a text to the clipboard. Returns whether that was possible. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyOfSelection(text); // the page is served without TLS by another host, or permission was denied
  }
}

function copyOfSelection(text) {
  const focused = document.activeElement;
  const area = element("textarea", { value: text, className: "visually-hidden" });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}

/** Copy a text, and say so on the button for a moment. */
export async function copyFrom(button, text) {
  const label = button.textContent;
  button.textContent = (await copy(text)) ? "Copied" : "Not copied";
  setTimeout(() => (button.textContent = label), 1500);
}

/** A file name with the time, such as slm-chat-2026-11-30-0142.json. */
export function fileName(stem, extension) {
  const time = new Date().toISOString().slice(0, 16).replace("T", "-").replace(":", "");
  return `${stem}-${time}.${extension}`;
}
