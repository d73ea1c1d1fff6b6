"""Tiny models with adapters that do something, in folders as slm-train leaves them, and jobs for a backend."""

import asyncio
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from slm_adapters import ButterflyConfig, load
from slm_data import sample_base
from slm_kv import Engine, SamplingParams
from slm_serve.backends.answer import Answer, Delta
from slm_serve.backends.protocol import Backend, Job

# Heads of 32: vLLM's attention on a CPU has none of less.
SIZES: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "eos_token_id": 1,
}
MAKERS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SIZES, n_positions=128)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, max_position_embeddings=128, num_key_value_heads=1, intermediate_size=48)
    ),
}
BUTTERFLY = ButterflyConfig(task_type="CAUSAL_LM", init_weights=False)


def save_base(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    """Weights large enough that the likeliest token is no close call; the built-in base's tokenizer."""
    torch.manual_seed(seed)
    model = MAKERS[kind]()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.25)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(sample_base()).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path | str, config: Any, seed: int = 1) -> Path:
    """As after training."""
    torch.manual_seed(seed)
    adapted = get_peft_model(load(base, device="cpu").model, copy.deepcopy(config))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def lora(**more: Any) -> LoraConfig:
    return LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], **more})


def greedy(new: int, **more: Any) -> SamplingParams:
    return SamplingParams(max_new_tokens=new, temperature=0, ignore_eos=True, **more)


async def deltas(backend: Backend, jobs: Sequence[Job]) -> list[list[Delta]]:
    """Of each job, until all are finished."""
    for job in jobs:
        backend.check(job)
    answer = Answer(len(jobs))
    found: list[list[Delta]] = [[] for _ in jobs]
    backend.submit(jobs, answer)
    try:
        async for index, delta in answer:
            found[index].append(delta)
    finally:
        answer.close()
    return found


def by_engine(base: str | Path, adapter: str | Path | None, prompts: Sequence[Sequence[int]], params: Any) -> list[Any]:
    """What slm_kv's engine gives, in float32, unmerged."""
    loaded = load(base, adapter, dtype=torch.float32, device="cpu")
    with Engine(loaded.model, loaded.tokenizer) as engine:
        return engine.generate(prompts, params)


@torch.no_grad()
def gap(model: PreTrainedModel, prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Between the logits of the two tokens at the first place where the texts differ; 0 where they are the same."""
    places = [at for at, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other]
    if not places:
        return 0.0
    at = places[0]
    logits = model(input_ids=torch.tensor([[*prompt, *ours[:at]]]), use_cache=False).logits[0, -1]
    return float((logits[ours[at]] - logits[theirs[at]]).abs())


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)
