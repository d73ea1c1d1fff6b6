"""Arguments of vLLM's SamplingParams for a job, and validation of jobs. vLLM is not imported here."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from slm_kv import Grammar, KVError, SamplingParams
from slm_serve.backends.protocol import Job
from slm_serve.errors import RequestError

MAX_TEMPERATURE = 2.0  # vLLM 0.32 rejects higher ones


def stop_token_ids(params: SamplingParams, eos_token_ids: Collection[int]) -> set[int]:
    """Return all tokens that end a text: those of the request and, unless ignored, the model's.

    Under a grammar they are not ignored: at the end of the grammar vLLM samples the end of text.
    """
    ignores = params.ignore_eos and params.grammar is None
    return {*params.stop_token_ids, *(() if ignores else eos_token_ids)}


def structured_outputs(grammar: Grammar | None) -> dict[str, Any] | None:
    """Return the arguments of vLLM's StructuredOutputsParams; None without a grammar."""
    if grammar is None:
        return None
    if grammar.kind == "json_object":
        return {"json_object": True}
    if grammar.kind == "json_schema":
        # x-guidance has options of llguidance, by which a schema could turn off its own keywords.
        schema = grammar.data if isinstance(grammar.data, dict) else {}
        return {"json": {name: value for name, value in schema.items() if name != "x-guidance"}}
    name = {"regex": "regex", "choice": "choice", "lark": "grammar"}[grammar.kind]
    return {name: grammar.data if grammar.kind == "choice" else grammar.text}


def sampling_arguments(params: SamplingParams, eos_token_ids: Collection[int], vocabulary_size: int) -> dict[str, Any]:
    """Return the arguments of vLLM's SamplingParams, with those of its StructuredOutputsParams as a dict.

    vLLM's own handling of the end of text is off, and end tokens are passed as ``stop_token_ids``, so that texts end as
    in slm_kv. vLLM returns only token ids; slm_kv decodes them and finds stop strings. Two differences remain: vLLM
    raises temperatures below 0.01 to 0.01, and applies min_p before top_k and top_p.
    """
    stops = stop_token_ids(params, eos_token_ids)
    return {
        "temperature": float(params.temperature),
        "top_k": min(params.top_k, vocabulary_size),
        "top_p": float(params.top_p),
        "min_p": float(params.min_p),
        "repetition_penalty": float(params.repetition_penalty),
        "presence_penalty": float(params.presence_penalty),
        "frequency_penalty": float(params.frequency_penalty),
        "seed": None if params.seed is None else params.seed % 2**63,
        "stop_token_ids": sorted(token for token in stops if 0 <= token < vocabulary_size),
        "ignore_eos": True,
        "max_tokens": params.max_new_tokens,
        "min_tokens": min(params.min_new_tokens, params.max_new_tokens),
        "logprobs": params.logprobs,
        "prompt_logprobs": params.prompt_logprobs,
        "detokenize": False,
        "logit_bias": dict(params.logit_bias) or None,
        "structured_outputs": structured_outputs(params.grammar),
    }


def check_job(job: Job, context_length: int, vocabulary_size: int) -> None:
    """Raise KVError or RequestError for a job that vLLM would reject or does not support."""
    prompt_length, new_tokens = len(job.prompt_ids), job.params.max_new_tokens
    if job.embeds:
        raise RequestError(
            501,
            "embeddings are not possible with vLLM, which was started to generate; use --backend engine",
            code="not_implemented",
        )
    if not job.use_cache:
        raise KVError("use_cache=False is not possible with vLLM, which always caches; use --backend engine")
    if not prompt_length:
        raise KVError("the prompt is empty; give at least one token")
    for token in (*job.prompt_ids, *(token for token, _ in job.params.logit_bias)):
        if not isinstance(token, int) or not 0 <= token < vocabulary_size:
            raise KVError(f"token id {token!r} is outside the vocabulary of {vocabulary_size}")
    if prompt_length >= context_length:
        raise KVError(
            f"the prompt has {prompt_length} tokens, and the context of {context_length} must also hold a new one; "
            "shorten it"
        )
    if prompt_length + new_tokens > context_length:
        raise KVError(
            f"a prompt of {prompt_length} tokens and max_new_tokens={new_tokens} need {prompt_length + new_tokens} "
            f"tokens of context and there are {context_length}; ask for fewer new tokens"
        )
    if job.params.temperature > MAX_TEMPERATURE:
        raise KVError(
            f"temperature={job.params.temperature} is above {MAX_TEMPERATURE:g}, the maximum of vLLM; lower it"
        )
