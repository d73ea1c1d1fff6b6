"""What is claimed of adapters without exception, looked at on the very models that were measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from slm_adapters import ButterflyLayer, rotation_matrix
from slm_bench.adapters.contenders import Contender, logits
from slm_bench.promises import Promise

IDENTITY = 1e-5  # of the largest logit: PEFT's methods multiply by an identity that they compute
ORTHOGONAL = 2e-6  # max |R'R - I|, of the matrix in float32
MERGED = 1e-5  # of the largest logit: a rotated weight is rounded once


def begin_as_the_base(base: Any, found: Sequence[Contender], input_ids: Tensor) -> list[Promise]:
    """Before any step."""
    wanted = logits(base, input_ids)
    adapted = [one for one in found if one.optimizer]
    apart = {one.name: relative(one.logits(input_ids), wanted) for one in adapted}
    ours = {one.name: apart[one.name] for one in adapted if one.ours}
    others = {name: error for name, error in apart.items() if name not in ours}
    return [
        Promise("butterflies begin with the base's logits, bit for bit", _within(ours, 0), _worst(ours)),
        Promise(f"PEFT's methods within {IDENTITY:g} of the largest", _within(others, IDENTITY), _worst(others)),
    ]


def stay_exact(found: Sequence[Contender], input_ids: Tensor) -> list[Promise]:
    """After the steps."""
    ours = [one for one in found if one.ours]
    turned = {one.name: float(torch.stack(list(map(_not_orthogonal, _rotations(one.model)))).max()) for one in ours}
    merged = {one.name: _merging_changes(one, input_ids) for one in ours}
    return [
        Promise(
            f"after the steps each rotation is orthogonal within {ORTHOGONAL:g}",
            _within(turned, ORTHOGONAL),
            _worst(turned),
        ),
        Promise(
            f"merged, butterflies have the logits they had within {MERGED:g} of the largest",
            _within(merged, MERGED),
            _worst(merged),
        ),
    ]


def unchanged(before: str, after: str) -> Promise:
    """Of digests of the base's weights."""
    return Promise("no bit of the base's weights changed", before == after, f"{before[:8]}, {after[:8]} afterwards")


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def _rotations(model: Any) -> Iterator[Tensor]:
    """The matrix of each rotation, in float32, as it is applied."""
    for layer in model.modules():
        if isinstance(layer, ButterflyLayer):
            for adapter, sides in layer.rotations.items():
                for side, rotation in sides.items():
                    yield rotation_matrix(getattr(layer, side)[adapter], rotation, torch.float32)


def _not_orthogonal(matrix: Tensor) -> Tensor:
    exact = matrix.double()
    return (exact.T @ exact - torch.eye(len(exact), dtype=exact.dtype, device=exact.device)).abs().max()


def _merging_changes(one: Contender, input_ids: Tensor) -> float:
    """On a copy with weights of its own: merging writes into them."""
    return relative(logits(copy.deepcopy(one.model).merge_and_unload(), input_ids), one.logits(input_ids))


def _within(errors: dict[str, float], most: float) -> bool:
    return bool(errors) and all(error <= most for error in errors.values())  # no number is not within it either


def _worst(errors: dict[str, float]) -> str:
    """The largest error and whose it is."""
    if not errors:
        return "none was measured"
    name = max(errors, key=lambda one: (errors[one] != errors[one], errors[one]))
    return f"{errors[name]:.1g} at most ({name})" if errors[name] else "0"
