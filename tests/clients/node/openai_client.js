// The official JavaScript client of OpenAI's API.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { KEY, QUESTION, run } from "./checks.js";

const messages = [{ role: "user", content: QUESTION }];
const Weather = z.object({ sky: z.enum(["clear", "cloudy", "rain"]), degrees: z.int().min(-30).max(50) });
const client = (baseURL) => new OpenAI({ baseURL, apiKey: KEY, maxRetries: 0 });

async function basic(url, model) {
  const answer = await client(url).chat.completions.create({ model, messages, max_completion_tokens: 8 });
  assert.equal(answer.usage.completion_tokens, 8);
  assert.equal(answer.choices[0].finish_reason, "length");
}

async function streaming(url, model) {
  const options = { model, messages, max_tokens: 8, temperature: 0 };
  const whole = await client(url).chat.completions.create(options);
  let text = "";
  for await (const chunk of await client(url).chat.completions.create({ ...options, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  assert.equal(text, whole.choices[0].message.content);
}

async function structured(url, model) {
  const answer = await client(url).chat.completions.parse({
    model, messages, max_tokens: 80, response_format: zodResponseFormat(Weather, "weather"),
  });
  Weather.parse(answer.choices[0].message.parsed);
}

async function tools(url, model) {
  const parameters = z.toJSONSchema(Weather);
  const answer = await client(url).chat.completions.create({
    model, messages, max_tokens: 80, tool_choice: "required",
    tools: [{ type: "function", function: { name: "weather", parameters } }],
  });
  Weather.parse(JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments));
}

async function embeddings(url, model) {
  const answer = await client(url).embeddings.create({ model, input: "The sea is blue." });
  assert.ok(Math.abs(Math.hypot(...answer.data[0].embedding) - 1) < 1e-3);
}

await run(basic, streaming, structured, tools, embeddings);
