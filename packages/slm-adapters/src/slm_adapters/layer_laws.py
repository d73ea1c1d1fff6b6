"""What must hold for an adapted layer or model of any shape; each law raises AssertionError where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from slm_adapters.butterfly.method.layer import ButterflyLayer

_HELD_FOR_A_MOMENT = "slm_adapters_laws"


@torch.no_grad()
def merged_equals_unmerged(layer: ButterflyLayer, x: Tensor, tolerance: float = 1e-5) -> None:
    """The layer computes the same with its active adapters merged, within ``tolerance`` of the largest output.
    ``x`` is ``[..., in]``."""
    compute: Any = layer
    unmerged = compute(x)
    layer.merge(safe_merge=True)
    try:
        error = (compute(x) - unmerged).abs().max() / unmerged.abs().max()
    finally:
        layer.unmerge()
    assert error <= tolerance, f"{layer.where}: merged and unmerged differ by {float(error):.3g} of the largest output"


def unmerge_restores(layer: ButterflyLayer) -> None:
    """Merging and unmerging leave each bit of the base layer as it was."""
    before = _bits(layer)
    layer.merge()
    layer.unmerge()
    after = _bits(layer)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert not changed, f"{layer.where}: unmerging leaves {', '.join(changed)} changed"


def saved_is_loaded(model: PeftModel, input_ids: Tensor, folder: Path) -> None:
    """What is saved under ``folder`` computes the same logits, bit for bit, when it is loaded beside the active
    adapter; ``model`` is left as it was."""
    saved = model.active_adapter
    model.save_pretrained(str(folder), selected_adapters=[saved])
    before = _logits(model, input_ids)
    model.load_adapter(str(folder if saved == "default" else folder / saved), _HELD_FOR_A_MOMENT)
    try:
        model.set_adapter(_HELD_FOR_A_MOMENT)
        after = _logits(model, input_ids)
    finally:
        model.set_adapter(saved)
        model.delete_adapter(_HELD_FOR_A_MOMENT)
    assert torch.equal(before, after), f"adapter {saved!r} computes other logits after it was saved and loaded"


def _bits(layer: Any) -> dict[str, Tensor]:
    """Weights, and what a base in few bits needs beside them."""
    return {name: values.clone() for name, values in layer.get_base_layer().state_dict().items()}


@torch.no_grad()
def _logits(model: PeftModel, input_ids: Tensor) -> Tensor:
    training = model.training
    found: Tensor = model.eval()(input_ids=input_ids, use_cache=False).logits
    model.train(training)
    return found
