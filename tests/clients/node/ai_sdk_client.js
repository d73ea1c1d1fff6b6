// Vercel's AI SDK, by its providers for OpenAI-compatible servers and for OpenAI.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, Output, streamText, tool } from "ai";
import { z } from "zod";
import { KEY, QUESTION, run } from "./checks.js";

const Weather = z.object({ sky: z.enum(["clear", "cloudy", "rain"]), degrees: z.number().int().min(-30).max(50) });

function provider(url) {
  return createOpenAICompatible({ name: "slm", baseURL: url, apiKey: KEY, supportsStructuredOutputs: true, includeUsage: true });
}

const chatModels = (url, model) => [provider(url)(model), createOpenAI({ baseURL: url, apiKey: KEY }).chat(model)];

async function basic(url, model) {
  for (const each of chatModels(url, model)) {
    const answer = await generateText({ model: each, system: "Be brief.", prompt: QUESTION, maxOutputTokens: 8 });
    assert.equal(answer.usage.outputTokens, 8);
    assert.equal(answer.finishReason, "length");
  }
}

async function streaming(url, model) {
  for (const each of chatModels(url, model)) {
    const options = { model: each, prompt: QUESTION, maxOutputTokens: 8, temperature: 0 };
    const whole = await generateText(options);
    let text = "";
    for await (const part of streamText(options).textStream) text += part;
    assert.equal(text, whole.text);
  }
}

async function structured(url, model) {
  for (const each of chatModels(url, model)) {
    const answer = await generateText({
      model: each, prompt: QUESTION, maxOutputTokens: 80, output: Output.object({ schema: Weather }),
    });
    Weather.parse(answer.output);
  }
}

async function tools(url, model) {
  for (const each of chatModels(url, model)) {
    const answer = await generateText({
      model: each, prompt: QUESTION, maxOutputTokens: 80, toolChoice: "required",
      tools: { weather: tool({ description: "Report the weather.", inputSchema: Weather }) },
    });
    Weather.parse(answer.toolCalls[0].input);
  }
}

async function embeddings(url, model) {
  const answer = await embed({ model: provider(url).embeddingModel(model), value: "The sea is blue." });
  assert.ok(answer.embedding.length > 0);
}

await run(basic, streaming, structured, tools, embeddings);
