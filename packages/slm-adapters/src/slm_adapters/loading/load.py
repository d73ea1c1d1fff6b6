"""``load``: a model that answers, from the folder of a run, of a model or of an adapter, or a name of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from slm_adapters.base.base_lookup import DAMAGED, BaseLocation, base_for, base_of, find_base, probe_base
from slm_adapters.base.hub_errors import as_adapter_error
from slm_adapters.base.model_folder import ModelFolder, read_model_folder
from slm_adapters.base.model_loading import cast, check_finite, copy_dequantised, load_base
from slm_adapters.base.quantization import compute_dtype, four_bit_config
from slm_adapters.errors import AdapterError
from slm_adapters.loading.attach import attach, merge_in


@dataclass(frozen=True)
class Loaded:
    """``model`` in eval mode, without gradients; ``base`` by name or folder; ``adapter`` its folder, or None."""

    model: PreTrainedModel  # a PeftModel around it where an adapter lies on it unmerged
    tokenizer: PreTrainedTokenizerBase
    base: str
    adapter: str | None


def load(
    model_path: str | Path,
    adapter_path: str | Path | None = None,
    *,
    merge: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    four_bit: bool | None = None,
) -> Loaded:
    """Load ``model_path``, with the adapter in ``adapter_path`` on it.

    ``model_path``: a folder of slm-train or PEFT, or a name (``distilgpt2``, ``OWNER/NAME``, ``sample``). A folder
    that holds an adapter brings the base it was trained on; giving it as both paths does the same. With ``merge``
    the adapter is merged in float32 and a plain transformers model comes back.

    ``dtype`` of the weights: float32 unless given, whatever the checkpoint has; over a 4-bit base the dtype that it
    multiplies in. ``device``: cuda where there is one, else cpu. ``four_bit``: whether the base is held in 4 bits;
    None is as the adapter was trained. Merged, an adapter over 4 bits gives the weights it was trained over,
    dequantised, plus its own.

    Raises AdapterError, one sentence, for whatever is missing, damaged or does not fit. Runs no code from a
    checkpoint: no pickles, no remote code.
    """
    base, adapter = _find(model_path, adapter_path)
    base = probe_base(base)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    small = adapter is not None and adapter.four_bit if four_bit is None else four_bit
    if small and adapter and four_bit is None:
        need_four_bit(adapter)
    tokenizer = load_tokenizer(base, adapter)
    model = _merged(base, adapter, where, small) if merge else _unmerged(base, adapter, where, small, dtype)
    if merge:
        cast(model, dtype or torch.float32)
    model.eval().requires_grad_(False)
    check_finite(model, adapter.path if adapter else base.name)
    return Loaded(model, tokenizer, base.name, str(adapter.path) if adapter else None)


def _find(model_path: str | Path, adapter_path: str | Path | None) -> tuple[BaseLocation, ModelFolder | None]:
    path = Path(model_path).expanduser()
    if adapter_path is None:
        adapter = read_model_folder(path) if path.is_dir() and (path / "adapter_config.json").is_file() else None
        return (base_of(adapter), adapter) if adapter else (find_base(model_path), None)
    adapter = read_adapter_folder(adapter_path)
    same = path.is_dir() and path.resolve() == adapter.path.resolve()
    return (base_of(adapter) if same else base_for(model_path, adapter)), adapter


def read_adapter_folder(path: str | Path) -> ModelFolder:
    """The folder of an adapter. Raises AdapterError for another."""
    found = read_model_folder(path)
    if not found.holds_adapter:
        raise AdapterError(f"{path} holds a whole model, not an adapter; give it alone")
    return found


def need_four_bit(adapter: ModelFolder) -> None:
    """Raises AdapterError where an adapter was trained over 4 bits and there is nothing to hold a base in them."""
    try:
        four_bit_config(torch.float32)
    except AdapterError as missing:
        raise AdapterError(
            f"the adapter in {adapter.path} was trained over 4-bit weights, and bitsandbytes is not installed for "
            "them; install it, or load with four_bit=False over weights that differ a little"
        ) from missing


def load_tokenizer(base: BaseLocation, adapter: ModelFolder | None) -> PreTrainedTokenizerBase:
    """The adapter's own where it has one, else the base's."""
    if adapter and adapter.has_tokenizer:
        return _read_tokenizer(str(adapter.path), DAMAGED)
    if base.folder and not base.folder.has_tokenizer:
        raise AdapterError(f"{base.location} has no tokenizer; copy its tokenizer.json there")
    return _read_tokenizer(base.location, base.remedy, base.hub_error, **base.from_pretrained_options)


def _read_tokenizer(
    location: str, remedy: str, hub_error: Exception | None = None, **where: Any
) -> PreTrainedTokenizerBase:
    with as_adapter_error(f"the tokenizer of {location}", remedy, hub_error):
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location, trust_remote_code=False, **where)
    return found


def _unmerged(
    base: BaseLocation, adapter: ModelFolder | None, device: torch.device, four_bit: bool, dtype: torch.dtype | None
) -> PreTrainedModel:
    model = load_base(base, device, dtype or (multiplies_in(device) if four_bit else torch.float32), four_bit)
    return attach(model, adapter, base.name) if adapter else model


def _merged(base: BaseLocation, adapter: ModelFolder | None, device: torch.device, four_bit: bool) -> PreTrainedModel:
    model = load_base(base, device, torch.float32, four_bit=False)
    if four_bit:
        copy_dequantised(load_base(base, device, torch.float32, four_bit=True), model)
    return merge_in(attach(model, adapter, base.name), adapter) if adapter else model


def multiplies_in(device: torch.device) -> torch.dtype:
    """On a CPU float32, exact; on a GPU what is fast there."""
    return compute_dtype(device, device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
