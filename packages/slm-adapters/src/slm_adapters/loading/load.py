"""``load``: a model for inference from a run folder, a model folder, an adapter folder or a hub name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from slm_adapters.base.base_lookup import (
    DAMAGED_FOLDER,
    BaseLocation,
    find_base,
    find_base_for,
    find_recorded_base,
    probe_base,
)
from slm_adapters.base.device import usable_device
from slm_adapters.base.gguf.reader import parse_gguf_once
from slm_adapters.base.gguf_model import restore_gguf_tokenizer
from slm_adapters.base.hub_errors import as_adapter_error
from slm_adapters.base.model_folder import ADAPTER_CONFIG, ModelFolder, read_model_folder
from slm_adapters.base.model_loading import cast_parameters, check_finite, checkpoint_dtype, copy_dequantized, load_base
from slm_adapters.base.quantization import compute_dtype, four_bit_config
from slm_adapters.base.vocabulary import check_vocabulary
from slm_adapters.errors import AdapterError
from slm_adapters.loading.added_rows import add_recorded_rows, write_added_rows
from slm_adapters.loading.end_tokens import add_end_ids

# A dtype of weights, or a function that chooses it from the checkpoint's dtype and the device.
WeightDtype = torch.dtype | Callable[[torch.dtype, torch.device], torch.dtype]


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode without gradients, and its tokenizer.

    ``base`` is the base's name or folder; ``adapter`` the adapter's folder, or None. ``tokenizer_or_none`` is None only
    after a merge of folders that hold no tokenizer.
    """

    model: PreTrainedModel  # a PeftModel around it if an adapter is attached and not merged
    tokenizer_or_none: PreTrainedTokenizerBase | None
    base: str
    adapter: str | None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The adapter's tokenizer if it has one, else the base's. Raises AdapterError if there is none."""
        if self.tokenizer_or_none is None:
            raise AdapterError(f"{self.base} has no tokenizer; copy its tokenizer.json there")
        return self.tokenizer_or_none


def load(
    model_path: str | Path,
    adapter_path: str | Path | None = None,
    *,
    merge: bool = False,
    dtype: WeightDtype | None = None,
    device: torch.device | str | None = None,
    four_bit: bool | None = None,
) -> Loaded:
    """Load ``model_path``, with the adapter in ``adapter_path``. Never runs code from a checkpoint.

    Args:
        model_path: A folder written by slm-train or PEFT, or a name (``distilgpt2``, ``OWNER/NAME``, ``sample``). For
            a folder with an adapter, the base that it records is loaded; the same folder may be given as both paths.
        adapter_path: A folder with an adapter, or None.
        merge: Merge the adapter in float32 and return a plain transformers model. An adapter trained over 4-bit
            weights is merged into those weights, dequantized. This needs no tokenizer in the folders.
        dtype: Dtype of the weights; for a 4-bit base, of its matrix products. None for float32, whatever the
            checkpoint has (for a 4-bit base on a GPU: bfloat16 or float16). A function chooses it from the
            checkpoint's dtype and the device.
        device: None for a GPU if there is one (cuda, mps or xpu), else cpu.
        four_bit: Whether to load the base in 4 bits; None if the adapter was trained over 4-bit weights.

    Raises:
        AdapterError: One sentence for anything that is missing, damaged or does not fit, a tokenizer with ids beyond
            the model's embeddings among it. Pickles and remote code are refused.
    """
    base, adapter = _find_base_and_adapter(model_path, adapter_path)
    base = probe_base(base)
    target_device = usable_device(device)
    if four_bit is None:
        four_bit = adapter is not None and adapter.four_bit
        if four_bit and adapter:
            check_bitsandbytes_installed(adapter)
    with parse_gguf_once(base.name):
        dtype = resolve_dtype(dtype, base, target_device)
        tokenizer = None if merge and lacks_tokenizer(base, adapter) else load_tokenizer(base, adapter)
        if merge:
            model = _load_merged(base, adapter, target_device, four_bit)
            cast_parameters(model, dtype or torch.float32)
        else:
            model = _load_unmerged(base, adapter, target_device, four_bit, dtype)
    model.eval().requires_grad_(False)
    check_finite(model, adapter.path if adapter else base.name)
    if tokenizer is not None:
        check_vocabulary(tokenizer, model, tokenizer_source(base, adapter))
    return Loaded(model, tokenizer, base.name, str(adapter.path) if adapter else None)


def _find_base_and_adapter(
    model_path: str | Path, adapter_path: str | Path | None
) -> tuple[BaseLocation, ModelFolder | None]:
    path = Path(model_path).expanduser()
    if adapter_path is None:
        if not holds_adapter_config(path):
            return find_base(model_path), None
        adapter = read_model_folder(path)
        return find_recorded_base(adapter), adapter
    adapter = read_adapter_folder(adapter_path)
    same_folder = path.is_dir() and path.resolve() == adapter.path.resolve()
    return (find_recorded_base(adapter) if same_folder else find_base_for(model_path, adapter)), adapter


def holds_adapter_config(path: Path) -> bool:
    """Whether ``path`` is a folder with an adapter_config.json."""
    return path.is_dir() and (path / ADAPTER_CONFIG).is_file()


def read_adapter_folder(path: str | Path) -> ModelFolder:
    """Read the folder of an adapter. Raises AdapterError if it holds anything else."""
    folder = read_model_folder(path)
    if not folder.holds_adapter:
        raise AdapterError(f"{path} holds a whole model, not an adapter; give it as the only path")
    return folder


def check_bitsandbytes_installed(adapter: ModelFolder) -> None:
    """Raise AdapterError if bitsandbytes, which ``adapter`` needs for its 4-bit base, is not installed."""
    try:
        four_bit_config(torch.float32)
    except AdapterError as error:
        raise AdapterError(
            f"the adapter in {adapter.path} was trained over 4-bit weights, which need bitsandbytes, and bitsandbytes "
            "is not installed; install it, or load with four_bit=False over weights that differ slightly"
        ) from error


def tokenizer_source(base: BaseLocation, adapter: ModelFolder | None) -> str:
    """Return where ``load_tokenizer`` finds the tokenizer, for error messages."""
    return str(adapter.path) if adapter and adapter.has_tokenizer else base.name


def load_tokenizer(base: BaseLocation, adapter: ModelFolder | None) -> PreTrainedTokenizerBase:
    """Load the adapter's own tokenizer if it has one, else the base's."""
    if adapter and adapter.has_tokenizer:
        with as_adapter_error(f"the tokenizer of {adapter.path}", DAMAGED_FOLDER):
            return _read_tokenizer(str(adapter.path))
    if lacks_tokenizer(base, adapter):
        raise AdapterError(f"{base.location} has no tokenizer; copy its tokenizer.json there")
    subject = base.name if base.gguf_file else base.location
    with parse_gguf_once(base.name):
        with as_adapter_error(f"the tokenizer of {subject}", base.remedy, base.hub_error):
            tokenizer = _read_tokenizer(base.location, **base.from_pretrained_options)
        if base.gguf_file:
            restore_gguf_tokenizer(base, tokenizer)
    return tokenizer


def lacks_tokenizer(base: BaseLocation, adapter: ModelFolder | None = None) -> bool:
    """Whether no folder holds a tokenizer. A name on the hub is not asked here."""
    in_folder = [folder.has_tokenizer for folder in (adapter, base.folder) if folder]
    return base.folder is not None and not any(in_folder)


def _read_tokenizer(location: str, **options: Any) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location, trust_remote_code=False, **options)
    return tokenizer


def _load_unmerged(
    base: BaseLocation, adapter: ModelFolder | None, device: torch.device, four_bit: bool, dtype: torch.dtype | None
) -> PreTrainedModel:
    model = load_base(base, device, dtype or default_dtype(device, four_bit), four_bit)
    if adapter is None:
        return model
    from slm_adapters.loading.attach import attach_adapter  # imports PEFT: seconds that a plain model does not need

    added = add_recorded_rows(model, adapter)
    add_end_ids(model, [adapter])
    adapted = attach_adapter(model, adapter, base.name)
    write_added_rows(adapted, added)
    return adapted


def _load_merged(
    base: BaseLocation, adapter: ModelFolder | None, device: torch.device, four_bit: bool
) -> PreTrainedModel:
    model = load_base(base, device, torch.float32, four_bit=False)
    if four_bit:
        copy_dequantized(load_base(base, device, torch.float32, four_bit=True), model)
    if adapter is None:
        return model
    from slm_adapters.loading.attach import attach_adapter, merge_adapter  # imports PEFT

    add_recorded_rows(model, adapter)
    add_end_ids(model, [adapter])
    return merge_adapter(attach_adapter(model, adapter, base.name), adapter)


def resolve_dtype(dtype: WeightDtype | None, base: BaseLocation, device: torch.device) -> torch.dtype | None:
    """Return ``dtype``, or what it chooses if it is a function."""
    return dtype if dtype is None or isinstance(dtype, torch.dtype) else dtype(checkpoint_dtype(base), device)


def default_dtype(device: torch.device, four_bit: bool) -> torch.dtype:
    """Return float32, which is exact; for a 4-bit base on a GPU the half precision that is fast there."""
    if not four_bit:
        return torch.float32
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return compute_dtype(device, bf16)
