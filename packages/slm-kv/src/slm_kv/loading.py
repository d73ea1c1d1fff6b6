"""Loading a model and its tokenizer from a folder or from the hub."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from slm_kv.errors import KVError
from slm_kv.gguf.file import check_gguf_file, is_gguf_path
from slm_kv.gguf.model import load_blocks
from slm_kv.gguf.tokenizer import load_tokenizer as load_gguf_tokenizer
from slm_kv.peft_models import add_adapter
from slm_kv.weight_dtype import automatic_dtype

# Packages that provide a loader register ``load(model_path, adapter_path, *, dtype, device)`` under this entry point.
# ``dtype`` is a function from the checkpoint's dtype and the device to the dtype of the weights, or that dtype itself.
# It returns an object with ``model`` and ``tokenizer``, and raises ValueError with one sentence for a user's mistake.
ENTRY_POINT_GROUP = "slm_kv.loaders"
ChooseDtype = Callable[[torch.dtype, torch.device], torch.dtype]


class Loaded(NamedTuple):
    """A model in eval mode (a PeftModel if an adapter was loaded) and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(
    model_path: str,
    adapter_path: str | None = None,
    *,
    dtype: torch.dtype | ChooseDtype | None = None,
    device: str | None = None,
) -> Loaded:
    """Load a causal language model for inference. Never runs code from a checkpoint.

    Uses the loader of another installed package if there is one (slm-adapters provides one that also knows ``sample``
    and butterflies), else transformers and peft.

    Args:
        model_path: A folder, a GGUF file (``.gguf``, with the package gguf; see ``gguf.model``) or a name on the hub.
        adapter_path: The folder of a PEFT adapter. It stays unmerged.
        dtype: The dtype of the weights; or a function that chooses it from the checkpoint's dtype and the device, such
            as None's ``automatic_dtype``: the checkpoint's own where that is not slower, else float32.
        device: ``cpu``, ``cuda``, ``mps`` or ``xpu``; None for ``default_device``.

    Raises:
        KVError: the model or adapter is missing, damaged, or does not fit; the device cannot be used.
    """
    if device is not None:
        check_device(device)
    loader = installed_loader() or _load_with_transformers
    try:
        choice = dtype or automatic_dtype
        blocks = _load_blocks(model_path, choice, device) if adapter_path is None else None
        loaded = blocks or loader(model_path, adapter_path, dtype=choice, device=device)
    except (ValueError, OSError, ImportError) as error:
        raise KVError(_first_line(error)) from error
    loaded.model.eval().requires_grad_(False)
    return Loaded(loaded.model, loaded.tokenizer)


def check_device(device: str) -> None:
    """Raise KVError for a name that torch does not know, and for a device on which no tensor can be allocated."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # by the backend and how torch was built
        raise KVError(
            f"device {device!r} cannot be used on this machine; use cpu, or cuda, mps or xpu with such a GPU"
        ) from error


def default_device() -> str:
    """Return the type of the accelerator if there is one (CUDA or ROCm, Apple's MPS, Intel's XPU), else ``cpu``."""
    available = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}
    return next((name for name, backend in available.items() if backend.is_available()), "cpu")


def installed_loader() -> Callable[..., Any] | None:
    """The loader that another package registered; with several, the first by name."""
    points = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return points[0].load() if points else None


def _load_with_transformers(
    model_path: str, adapter_path: str | None, *, dtype: torch.dtype | ChooseDtype, device: str | None
) -> Loaded:
    target = torch.device(device or default_device())
    gguf: dict[str, Any] = {}
    dequantize: dict[str, Any] = {}
    if is_gguf_path(model_path):
        path = Path(model_path).expanduser()
        model_path, gguf = str(path.parent), {"gguf_file": path.name}
        if hasattr(transformers, "GgufConfig"):  # since 5.19, which else keeps the file's blocks
            dequantize = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    if not isinstance(dtype, torch.dtype):
        config = AutoConfig.from_pretrained(model_path, trust_remote_code=False, **gguf).get_text_config()
        dtype = dtype(getattr(config, "dtype", None) or torch.float32, target)
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=dtype, trust_remote_code=False, **gguf, **dequantize
    )
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # transformers' default ignores the soft cap
    model.to(target)
    if gguf:
        tokenizer = load_gguf_tokenizer(Path(model_path, gguf["gguf_file"]))
    else:
        tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    if adapter_path is not None:
        _add_end_ids(model, adapter_path)
        model = add_adapter(model, adapter_path)
    return Loaded(model, tokenizer)


def _load_blocks(model_path: str, dtype: torch.dtype | ChooseDtype, device: str | None) -> Loaded | None:
    """Load a GGUF file's own blocks; None for other models, and where its weights must be dequantized."""
    if not is_gguf_path(model_path):
        return None
    check_gguf_file(path := Path(model_path).expanduser())
    if (device or default_device()) != "cpu":
        return None
    loaded = load_blocks(path, dtype)
    return None if loaded is None else Loaded(*loaded)


def _add_end_ids(model: Any, adapter_path: str) -> None:
    """Add the tokens with which an adapter of slm-train was trained to end its answers. PEFT does not read them."""
    if not Path(adapter_path, "generation_config.json").is_file():
        return
    configs = (model.generation_config, GenerationConfig.from_pretrained(adapter_path))
    ids = [[ids] if isinstance(ids, int) else list(ids or []) for ids in (config.eos_token_id for config in configs)]
    model.generation_config.eos_token_id = list(dict.fromkeys(ids[0] + ids[1])) or None


def _first_line(error: Exception) -> str:
    """The first line of a message: those of transformers and huggingface_hub have whole paragraphs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
