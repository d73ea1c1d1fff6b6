"""``load_adapters``: several adapters, of any methods, over one base in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_adapters.base.base_lookup import BaseLocation, find_base, find_base_for, find_recorded_base, probe_base
from slm_adapters.base.device import usable_device
from slm_adapters.base.gguf.reader import parse_gguf_once
from slm_adapters.base.model_folder import ModelFolder
from slm_adapters.base.model_loading import check_finite, load_base
from slm_adapters.base.vocabulary import check_vocabulary
from slm_adapters.errors import AdapterError
from slm_adapters.loading.adapter_loader import AdapterLoader, check_keeps_base
from slm_adapters.loading.added_rows import add_recorded_rows, write_added_rows
from slm_adapters.loading.end_tokens import add_end_ids
from slm_adapters.loading.load import (
    WeightDtype,
    check_bitsandbytes_installed,
    default_dtype,
    holds_adapter_config,
    read_adapter_folder,
    resolve_dtype,
    tokenizer_source,
)
from slm_adapters.loading.tokenizers import Tokenizers, load_tokenizers


@dataclass(frozen=True)
class LoadedAdapters:
    """Models in eval mode without gradients that share their base weights, and their tokenizers.

    A PeftModel has adapters of one method only, so there is one model for each method; adapters trained over 4-bit
    weights have their own 4-bit base. The first model also serves the base; without adapters it is a plain model.

    ``adapters``: the name of each adapter in PEFT, by the name passed to ``load_adapters``.
    ``loader``: loads further adapters for the base.
    """

    models: list[PreTrainedModel]
    tokenizers: Tokenizers
    base: str
    adapters: dict[str, str]
    loader: AdapterLoader

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A tokenizer with the tokens of all models."""
        return self.tokenizers.shared


def load_adapters(
    model_path: str | Path,
    adapters: Mapping[str, str | Path],
    *,
    dtype: WeightDtype | None = None,
    device: torch.device | str | None = None,
) -> LoadedAdapters:
    """Load the base ``model_path`` with the adapters in the folders of ``adapters``, by name, unmerged.

    ``model_path``, ``dtype`` and ``device`` are as in ``load``. If ``model_path`` is an adapter's folder, the base that
    it records is loaded.

    Raises AdapterError, one sentence, as ``load`` does, and for adapters of different bases or vocabularies, or with
    which PEFT would write into the base (PiSSA, trained biases).
    """
    folders = {name: read_adapter_folder(path) for name, path in adapters.items()}
    for folder in folders.values():
        check_keeps_base(folder)
        if folder.four_bit:
            check_bitsandbytes_installed(folder)
    base = probe_base(common_base(model_path, list(folders.values())))
    target_device = usable_device(device)
    with parse_gguf_once(base.name):
        dtype = resolve_dtype(dtype, base, target_device)
        tokenizers = load_tokenizers(base, folders)
        # Generated names: PEFT 0.21 allows no dot in a name, and warns about names that are part of a method's prefix.
        peft_names = {name: f"adapter{number:03}" for number, name in enumerate(folders)}
        models: list[PreTrainedModel] = []
        for four_bit in (False, True):
            group = {peft_names[name]: folder for name, folder in folders.items() if folder.four_bit is four_bit}
            if group or not (folders or four_bit):  # without any adapters, the base alone is loaded once
                base_model = load_base(base, target_device, dtype or default_dtype(target_device, four_bit), four_bit)
                # The models generate together, with the same end-of-text tokens. So each also stops at the end of turn
                # of the others: slm-train records it only if it is an added token, such as <|im_end|>, which no text
                # contains.
                add_end_ids(base_model, folders.values())
                models += _attach_by_method(base_model, group, base.name)
    for model in models:
        model.eval().requires_grad_(False)
        check_finite(model, base.name)
        for name, tokenizer in (tokenizers.adapters or {"": tokenizers.shared}).items():
            check_vocabulary(tokenizer, model, tokenizer_source(base, folders.get(name)))
    loader = AdapterLoader(base, tokenizers, bool(folders) and all(folder.four_bit for folder in folders.values()))
    return LoadedAdapters(models, tokenizers, base.name, peft_names, loader)


def common_base(model_path: str | Path, adapters: Sequence[ModelFolder]) -> BaseLocation:
    """Return the base of all ``adapters``: ``model_path``, or the base that it records if it is an adapter's folder.

    Raises AdapterError for an adapter of another base, or of another revision of it.
    """
    path = Path(model_path).expanduser()
    if holds_adapter_config(path):
        model_path = find_recorded_base(read_adapter_folder(path)).name
    bases = [find_base_for(model_path, adapter) for adapter in adapters] or [find_base(model_path)]
    if any(base.revision != bases[0].revision for base in bases):
        revisions = ", ".join(sorted({str(base.revision) for base in bases}))
        raise AdapterError(f"the adapters were trained on different revisions of {bases[0].name}: {revisions}")
    return bases[0]


def _attach_by_method(
    base_model: PreTrainedModel, adapters: Mapping[str, ModelFolder], base_name: str
) -> list[PreTrainedModel]:
    """Return a model for each method: the first around ``base_model``, the others around copies that share its weights.

    Without adapters it is ``base_model`` alone.
    """
    if not adapters:
        return [base_model]
    from slm_adapters.loading.attach import attach_adapter  # imports PEFT: seconds that a plain model does not need

    added = _add_rows(base_model, list(adapters.values()))
    by_method: dict[str, dict[str, ModelFolder]] = {}
    for name, folder in adapters.items():
        by_method.setdefault(str(folder.config.get("peft_type")), {})[name] = folder
    models = [base_model, *(_copy_sharing_weights(base_model) for _ in list(by_method)[1:])]
    for index, group in enumerate(by_method.values()):
        for name, folder in group.items():
            models[index] = attach_adapter(models[index], folder, base_name, name)
    write_added_rows(models[0], added)
    return models


def _add_rows(base_model: PreTrainedModel, adapters: Sequence[ModelFolder]) -> int:
    """Add the rows that an adapter was trained with to the base's embeddings, and return how many were added.

    Raises AdapterError if it is not the only adapter: the others, and the base, have no such tokens.
    """
    for adapter in adapters:
        if added := add_recorded_rows(base_model, adapter):
            if len(adapters) > 1:
                raise AdapterError(
                    f"the adapter in {adapter.path} has {added} tokens of its own, which other adapters of the same "
                    "base do not have; load it alone, or merge it"
                )
            return added
    return 0


def _copy_sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the modules with the same tensors: in ``deepcopy``'s memo they are already copied."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
