"""``load_adapters``: one base in memory, and any number of adapters over it, of whatever methods."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_adapters.base.base_lookup import BaseLocation, base_for, base_of, find_base, probe_base
from slm_adapters.base.model_folder import ModelFolder
from slm_adapters.base.model_loading import check_finite, load_base
from slm_adapters.errors import AdapterError
from slm_adapters.loading.attach import attach
from slm_adapters.loading.load import load_tokenizer, multiplies_in, need_four_bit, read_adapter_folder


@dataclass(frozen=True)
class LoadedAdapters:
    """``models`` in eval mode, without gradients. PEFT holds adapters of one method in a model, so that there is a
    PeftModel for each method, and all of them hold the same base weights; adapters trained over 4 bits have a base
    of their own in 4 bits. The first answers for the base: without adapters it is a plain model.

    ``adapters``: what PEFT calls each, by the name that was given.
    """

    models: list[PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    base: str
    adapters: dict[str, str]


def load_adapters(
    model_path: str | Path,
    adapters: Mapping[str, str | Path],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> LoadedAdapters:
    """Load the base ``model_path`` with the adapters in the folders that ``adapters`` names, unmerged.

    ``model_path``, ``dtype`` and ``device`` are what ``load`` takes. Where ``model_path`` is the folder of an adapter,
    the base is the one which that names.

    Raises AdapterError, one sentence, as ``load`` does, and for adapters of different bases.
    """
    folders = {name: read_adapter_folder(path) for name, path in adapters.items()}
    for folder in folders.values():
        if folder.four_bit:
            need_four_bit(folder)
    base = probe_base(common_base(model_path, list(folders.values())))
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = load_tokenizer(base, next(iter(folders.values()), None))
    called = {name: f"adapter{place:03}" for place, name in enumerate(folders)}
    models: list[PreTrainedModel] = []
    for four_bit in (False, True):
        own = {called[name]: folder for name, folder in folders.items() if folder.four_bit is four_bit}
        if own or not (folders or four_bit):
            plain = load_base(base, where, dtype or (multiplies_in(where) if four_bit else torch.float32), four_bit)
            models += _adapted(plain, own, base.name)
    for model in models:
        model.eval().requires_grad_(False)
        check_finite(model, base.name)
    return LoadedAdapters(models, tokenizer, base.name, called)


def common_base(model_path: str | Path, adapters: Sequence[ModelFolder]) -> BaseLocation:
    """The base ``model_path``, or the one that it names where it is an adapter's folder, for all of ``adapters``.

    Raises AdapterError for an adapter of another base, or of another revision of it.
    """
    path = Path(model_path).expanduser()
    if path.is_dir() and (path / "adapter_config.json").is_file():
        model_path = base_of(read_adapter_folder(path)).name
    bases = [base_for(model_path, adapter) for adapter in adapters] or [find_base(model_path)]
    if any(base.revision != bases[0].revision for base in bases):
        revisions = ", ".join(sorted({str(base.revision) for base in bases}))
        raise AdapterError(f"the adapters were trained on different revisions of {bases[0].name}: {revisions}")
    return bases[0]


def _adapted(plain: PreTrainedModel, adapters: Mapping[str, ModelFolder], base: str) -> list[PreTrainedModel]:
    """A model for each method, the first of them ``plain`` itself."""
    methods: dict[str, dict[str, ModelFolder]] = {}
    for name, folder in adapters.items():
        methods.setdefault(str(folder.config.get("peft_type")), {})[name] = folder
    models = [plain, *(_twin(plain) for _ in list(methods)[1:])]
    for place, own in enumerate(methods.values()):
        for name, folder in own.items():
            models[place] = attach(models[place], folder, base, name)
    return models


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """Modules of its own, the weights of ``model``: the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
