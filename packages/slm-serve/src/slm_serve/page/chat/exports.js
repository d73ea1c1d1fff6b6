/** A conversation as Markdown, with a heading for each message. */
export function asMarkdown({ system, turns }) {
  const parts = system.trim() ? [["System", system]] : [];
  for (const { user, answers } of turns) {
    parts.push(["User", user]);
    for (const { model, text } of answers) if (text.trim()) parts.push([`Assistant (${model})`, text]);
  }
  return parts.map(([heading, text]) => `## ${heading}\n\n${text.trim()}\n`).join("\n");
}

/** A conversation with everything that is known about it, as JSON. */
export const asJson = (conversation, settings) =>
  JSON.stringify({ ...conversation.copy(), settings, exported: new Date().toISOString() }, null, 2);

/**
 * A conversation as training data: a line with `messages`, as `slm-train --train_file` reads it. A comparison has a
 * line for each model.
 */
export function asTrainingData(conversation) {
  const models = conversation.isComparison ? conversation.models : [undefined];
  const conversations = models.map((model) => conversation.messages(model));
  return conversations
    .filter((messages) => messages.some(({ role }) => role === "assistant"))
    .map((messages) => `${JSON.stringify({ messages })}\n`)
    .join("");
}
