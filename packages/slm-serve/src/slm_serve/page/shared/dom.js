const BLOCK_LENGTH = 4000; // characters after which a text continues in a new block

export const byId = (id) => document.getElementById(id);

/** An element with these properties. Children that are strings become text, never markup. */
export function element(tag, properties = {}, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

export function button(label, onClick, properties = {}) {
  const created = element("button", { type: "button", className: "quiet", ...properties }, label);
  created.addEventListener("click", onClick);
  return created;
}

/** The entries of an object as terms with their values. */
export const figures = (values) =>
  Object.entries(values).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, String(value))),
  );

/**
 * Text that grows at its end. Long texts continue in new blocks at line breaks, so that the browser does not lay out
 * the whole text again for each token.
 */
export class GrowingText {
  constructor(parent, text = "") {
    this.parent = parent;
    this.value = "";
    this.node = parent.appendChild(document.createTextNode(""));
    this.append(text);
  }

  append(text) {
    this.value += text;
    let rest = text;
    while (rest !== "") {
      const lineEnd = rest.indexOf("\n", Math.max(0, BLOCK_LENGTH - this.node.length)) + 1;
      const cut = lineEnd || rest.length;
      this.node.appendData(rest.slice(0, cut));
      rest = rest.slice(cut);
      if (rest !== "") this.node = this.parent.appendChild(element("span", { className: "block" }, "")).appendChild(document.createTextNode(""));
    }
  }
}
