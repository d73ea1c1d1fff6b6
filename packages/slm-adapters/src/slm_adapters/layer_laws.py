"""Properties of every adapted layer or model, as checks. Each raises AssertionError if it does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from slm_adapters.butterfly.method.layer import ButterflyLayer

_TEMPORARY_ADAPTER = "slm_adapters_laws"


@torch.no_grad()
def merged_equals_unmerged(layer: ButterflyLayer, x: Tensor, tolerance: float = 1e-5) -> None:
    """The layer's output is the same with its active adapters merged, within ``tolerance`` of the largest output.

    ``x`` is ``[..., in]``.
    """
    call: Any = layer
    unmerged = call(x)
    layer.merge(safe_merge=True)
    try:
        error = (call(x) - unmerged).abs().max() / unmerged.abs().max()
    finally:
        layer.unmerge()
    assert error <= tolerance, (
        f"{layer.layer_name}: merged and unmerged differ by {float(error):.3g} of the largest output"
    )


def unmerge_restores(layer: ButterflyLayer) -> None:
    """Merging and unmerging restore every bit of the base layer."""
    before = _base_state(layer)
    layer.merge()
    layer.unmerge()
    after = _base_state(layer)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert not changed, f"{layer.layer_name}: unmerging leaves {', '.join(changed)} changed"


def saved_is_loaded(model: PeftModel, input_ids: Tensor, folder: Path) -> None:
    """The active adapter, saved in ``folder`` and loaded under another name, gives the same logits, bit for bit.

    ``model`` is left as it was.
    """
    saved = model.active_adapter
    model.save_pretrained(str(folder), selected_adapters=[saved])
    before = _logits(model, input_ids)
    model.load_adapter(str(folder if saved == "default" else folder / saved), _TEMPORARY_ADAPTER)
    try:
        model.set_adapter(_TEMPORARY_ADAPTER)
        after = _logits(model, input_ids)
    finally:
        model.set_adapter(saved)
        model.delete_adapter(_TEMPORARY_ADAPTER)
    assert torch.equal(before, after), f"adapter {saved!r} gives other logits after it was saved and loaded"


def _base_state(layer: Any) -> dict[str, Tensor]:
    """Return copies of the weights, and of the scales of a 4-bit or 8-bit layer."""
    return {name: values.clone() for name, values in layer.get_base_layer().state_dict().items()}


@torch.no_grad()
def _logits(model: PeftModel, input_ids: Tensor) -> Tensor:
    training = model.training
    logits: Tensor = model.eval()(input_ids=input_ids, use_cache=False).logits
    model.train(training)
    return logits
