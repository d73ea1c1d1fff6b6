"""Modules that are trained and saved with an adapter: those that the user names, and new rows of the embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from slm_adapters.base.quantization import is_quantized
from slm_adapters.errors import AdapterError

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)  # PEFT refuses them


def extra_modules(
    model: PreTrainedModel, names: Sequence[str], new_rows: int, targets: Sequence[str]
) -> dict[str, Any]:
    """Return the options of a PEFT configuration that train more than the adapter's own parameters.

    Args:
        model: The model, without adapters.
        names: Full names of modules that are trained as a whole, or the last parts of them.
        new_rows: The number of rows at the end of the embeddings that ``resize_embeddings`` has added.
        targets: The names of the layers that the adapter is placed on.

    Raises:
        AdapterError: A name matches nothing, or something that cannot be trained.
    """
    saved = _modules_to_save(model, names)
    embeddings = _embedding_names(model)
    rows: dict[str, list[int]] = {}
    if new_rows and not set(embeddings) & set(saved):
        if taken := [name for name in embeddings if any(name == t or name.endswith(f".{t}") for t in targets)]:
            raise AdapterError(
                f"target module {taken[0]} has new rows, which are trained as they are; leave it out of "
                f"--target_modules, or give --modules_to_save {taken[0].rpartition('.')[2]}"
            )
        if _rows_can_be_trained_alone(model):
            rows = _new_row_indices(model, new_rows, embeddings)
        else:
            saved |= dict.fromkeys(embeddings)
    ties = is_tied(model) and bool(set(embeddings) & set(saved))
    if ties or (new_rows and not rows):
        saved |= dict.fromkeys(embeddings)  # the output's weight, or its new rows, as well as the input's
    options: dict[str, Any] = {}
    if saved:
        options |= {"modules_to_save": list(saved), "ensure_weight_tying": ties}
    return options | ({"trainable_token_indices": rows} if rows else {})


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output embeddings have the weight of the input embeddings."""
    source: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    return getattr(head, "weight", None) is source.weight


def _modules_to_save(model: PreTrainedModel, names: Sequence[str]) -> dict[str, None]:
    """Return the full names of the modules called ``names``, in order."""
    modules = dict(model.named_modules())
    tied = set(_embedding_names(model)) if is_tied(model) else set()
    saved: dict[str, None] = {}
    for name in names:
        matching = [full for full in modules if full and (full == name or full.endswith(f".{name}"))]
        if not matching:
            raise AdapterError(_unknown_module(name, modules))
        for full in matching:
            _check_trainable(full, modules[full], tied)
            saved[full] = None
    return saved


def _check_trainable(name: str, module: nn.Module, tied: set[str]) -> None:
    if isinstance(module, _CONTAINERS) or not any(True for _ in module.parameters()):
        raise AdapterError(f"--modules_to_save {name}: a {type(module).__name__} has no weights of its own to train")
    if any(is_quantized(part) for part in module.modules()):
        raise AdapterError(f"--modules_to_save {name}: its weights are held in 4 or 8 bits and cannot be trained")
    if inside := [other for other in tied if other.startswith(f"{name}.")]:
        raise AdapterError(
            f"--modules_to_save {name}: it contains {inside[0]}, whose weight is tied to another layer; name the "
            "modules in it one by one"
        )


def _unknown_module(name: str, modules: dict[str, nn.Module]) -> str:
    parts = sorted({full.rpartition(".")[2] for full in modules if full} - {str(n) for n in range(1000)})
    close = get_close_matches(name, parts, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"--modules_to_save {name!r} matches no module of this model; {hint}it has {', '.join(parts)}"


def _embedding_names(model: PreTrainedModel) -> list[str]:
    """Return the full names of the input and the output embeddings."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [name for name, module in model.named_modules() if any(module is layer for layer in layers)]


def _rows_can_be_trained_alone(model: PreTrainedModel) -> bool:
    """Whether PEFT's trainable tokens compute what these embeddings compute.

    PEFT 0.21 looks rows up itself, leaves out the head's bias, and reads from the configuration whether they are tied.
    """
    source: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    plain_source = type(source).forward is nn.Embedding.forward or hasattr(source, "embed_scale")
    plain_head = head is None or (type(head) is nn.Linear and head.bias is None)
    return plain_source and plain_head and is_tied(model) == bool(getattr(model.config, "tie_word_embeddings", False))


def _new_row_indices(model: PreTrainedModel, new_rows: int, embeddings: list[str]) -> dict[str, list[int]]:
    source: Any = model.get_input_embeddings()
    rows = source.weight.shape[0]
    names = [name for name, module in model.named_modules() if module is source] if is_tied(model) else embeddings
    return {name: list(range(rows - new_rows, rows)) for name in names}
