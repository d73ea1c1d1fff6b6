"""Tiny models and adapters that change their texts, saved as slm-train saves them, and jobs for a backend."""

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
from slm_serve import Answer, Backend, Delta, Job

# Heads of size 32: vLLM 0.32 has no attention for smaller ones on a CPU.
SIZES: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "eos_token_id": 1,
}
MODEL_FACTORIES = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SIZES, n_positions=128)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, max_position_embeddings=128, num_key_value_heads=1, intermediate_size=48)
    ),
}
BUTTERFLY = ButterflyConfig(task_type="CAUSAL_LM", init_weights=False)


def save_base(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    """Save a model whose weights are so large that the most likely token is clear, with the built-in tokenizer."""
    torch.manual_seed(seed)
    model = MODEL_FACTORIES[kind]()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.25)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(sample_base()).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path | str, config: Any, seed: int = 1) -> Path:
    """Save an adapter with random weights for ``base``."""
    torch.manual_seed(seed)
    adapted = get_peft_model(load(base, device="cpu").model, copy.deepcopy(config))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def lora_config(**options: Any) -> LoraConfig:
    """Return a LoRA of rank 4 on three layers, with ``options`` changed."""
    targets = ["q_proj", "v_proj", "down_proj"]
    return LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": targets, **options})


def greedy_params(max_new_tokens: int, **options: Any) -> SamplingParams:
    """Return greedy sampling without an end of text."""
    return SamplingParams(max_new_tokens=max_new_tokens, temperature=0, ignore_eos=True, **options)


async def collect_deltas(backend: Backend, jobs: Sequence[Job]) -> list[list[Delta]]:
    """Return the deltas of each job, once all jobs are finished."""
    for job in jobs:
        backend.check(job)
    answer = Answer(len(jobs))
    collected: list[list[Delta]] = [[] for _ in jobs]
    backend.submit(jobs, answer)
    try:
        async for index, delta in answer:
            collected[index].append(delta)
    finally:
        answer.close()
    return collected


def generate_with_engine(
    base: str | Path, adapter: str | Path | None, prompts: Sequence[Sequence[int]], params: Any
) -> list[Any]:
    """Return the handles of slm_kv's engine for ``prompts``, in float32, with the adapter unmerged."""
    loaded = load(base, adapter, dtype=torch.float32, device="cpu")
    with Engine(loaded.model, loaded.tokenizer) as engine:
        return engine.generate(prompts, params)


@torch.no_grad()
def logit_gap(model: PreTrainedModel, prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Return the difference of the logits of the two tokens at the first position where the texts differ, else 0."""
    differing = [at for at, (our_id, their_id) in enumerate(zip(ours, theirs, strict=True)) if our_id != their_id]
    if not differing:
        return 0.0
    at = differing[0]
    logits = model(input_ids=torch.tensor([[*prompt, *ours[:at]]]), use_cache=False).logits[0, -1]
    return float((logits[ours[at]] - logits[theirs[at]]).abs())
