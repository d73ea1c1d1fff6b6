"""The jobs of a chat: its prompt, the grammar of its answer, and the tools that it may call."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fastapi import Request

from slm_serve.backends.protocol import Job
from slm_serve.http.prompts.chat_prompt import chat_template
from slm_serve.http.prompts.encoding import encode_chat
from slm_serve.http.prompts.limits import PromptLimits
from slm_serve.http.responses import seed_argument
from slm_serve.http.schemas.chat import ChatRequest
from slm_serve.http.structured_output import compile_tools, output_grammar
from slm_serve.http.tools.plan import ToolPlan, plan_tools
from slm_serve.service import Service

if TYPE_CHECKING:
    from slm_kv import Grammar


async def chat_jobs(body: ChatRequest, request: Request, service: Service) -> tuple[list[Job], ToolPlan | None]:
    """Return the ``n`` jobs, and how they call tools."""
    model = service.served_model(body.model).name
    grammar = await output_grammar(body, service)
    plan = await _plan(body, service, model, grammar)
    prompt = await encode_chat(request, body, service, model, plan.definitions if plan else ())
    max_new_tokens = PromptLimits.of(service).new_tokens(body.token_limit, len(prompt.ids))
    top_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    # A grammar ends the text, in which the texts that otherwise end it may occur: in a string of JSON.
    stop = prompt.stop if grammar is None and not (plan and plan.required) else ()
    options = {"grammar": plan.grammar, "visible_special_ids": plan.visible_ids} if plan else {"grammar": grammar}
    jobs = []
    for index in range(body.choices):
        params = body.sampling_params(max_new_tokens, top_logprobs, None, **seed_argument(body.seed, index), **options)
        params = replace(params, stop=(*params.stop, *stop))
        jobs.append(Job(prompt.ids, params, model, open_ended=body.token_limit is None))
    return jobs, plan


async def _plan(body: ChatRequest, service: Service, model: str, grammar: Grammar | None) -> ToolPlan | None:
    if not body.wants_tools:
        return None
    tokenizer = service.backend.tokenizers[model]
    plan = plan_tools(body, grammar, chat_template(tokenizer, with_tools=True), tokenizer)
    await compile_tools(plan, service)
    return plan
