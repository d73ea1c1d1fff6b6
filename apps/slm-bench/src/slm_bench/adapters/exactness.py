"""Guarantees of adapters, checked on the same models that were measured."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slm_adapters import ButterflyLayer, rotation_matrix
from slm_bench.adapters.contenders import Contender, eval_logits
from slm_bench.harness.guarantees import Guarantee

IDENTITY = 1e-5  # of the largest logit: PEFT's methods compute an identity matrix and multiply by it
ORTHOGONAL = 2e-6  # max |R'R - I| of the matrix in float32
MERGED = 1e-5  # of the largest logit: a merged weight is rounded once


def start_as_base(base: Any, contenders: Sequence[Contender], input_ids: Tensor) -> list[Guarantee]:
    """Compare logits with those of the base before any training step."""
    expected = eval_logits(base, input_ids)
    adapted = [contender for contender in contenders if contender.optimizer]
    errors = {each.name: relative_error(eval_logits(each.model, input_ids), expected) for each in adapted}
    butterflies = {each.name: errors[each.name] for each in adapted if each.is_butterfly}
    others = {name: error for name, error in errors.items() if name not in butterflies}
    return [
        _within("butterflies begin with the base's logits, bit for bit", butterflies, 0),
        _within(f"PEFT's methods begin with them within {IDENTITY:g} of the largest", others, IDENTITY),
    ]


def stay_exact(contenders: Sequence[Contender], input_ids: Tensor) -> list[Guarantee]:
    """Check rotations and merging after the training steps."""
    butterflies = [contender for contender in contenders if contender.is_butterfly]
    orthogonality = {each.name: _orthogonality_error(each.model) for each in butterflies}
    merged = {contender.name: _merging_error(contender, input_ids) for contender in butterflies}
    return [
        _within(f"after the steps each rotation is orthogonal within {ORTHOGONAL:g}", orthogonality, ORTHOGONAL),
        _within(f"merged butterflies keep their logits within {MERGED:g} of the largest", merged, MERGED),
    ]


def base_unchanged(before: str, after: str) -> Guarantee:
    """Compare digests of the base's weights."""
    return Guarantee("no bit of the base's weights changed", before == after, f"{before[:8]}, {after[:8]} afterwards")


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected value."""
    return float((actual - expected).abs().max() / expected.abs().max())


def _rotations(model: Any) -> Iterator[Tensor]:
    """Yield the matrix of each rotation as it is applied, in float32."""
    for layer in model.modules():
        if isinstance(layer, ButterflyLayer):
            for adapter, sides in layer.rotations.items():
                for side, rotation in sides.items():
                    yield rotation_matrix(getattr(layer, side)[adapter], rotation, torch.float32)


def _orthogonality_error(model: Any) -> float:
    """Return the largest |R^T R - I| of all rotations R; NaN if one has a NaN."""
    matrices = [rotation.double() for rotation in _rotations(model)]
    return float(
        torch.stack([(exact.T @ exact - torch.eye(len(exact)).to(exact)).abs().max() for exact in matrices]).max()
    )


def _merging_error(contender: Contender, input_ids: Tensor) -> float:
    # A deep copy with weights of its own: merging overwrites them, and the others share the base's.
    merged = copy.deepcopy(contender.model).merge_and_unload()
    return relative_error(eval_logits(merged, input_ids), eval_logits(contender.model, input_ids))


def _within(statement: str, errors: Mapping[str, float], tolerance: float) -> Guarantee:
    """Return whether all ``errors``, by contender, are within ``tolerance``; NaN is not."""
    if not errors:
        return Guarantee(statement, False, "none was measured")
    holds = all(error <= tolerance for error in errors.values())
    worst = max(errors, key=lambda name: (errors[name] != errors[name], errors[name]))  # NaN is the worst
    return Guarantee(statement, holds, f"{errors[worst]:.1g} at most ({worst})" if errors[worst] else "0")
