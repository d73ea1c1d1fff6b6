"""The public laws pass on any shape, and fail where a rotation is broken."""

import importlib
import sys
from collections.abc import Callable

import pytest
import torch

from slm_adapters import Rotation, laws, rotate, rotation_matrix
from slm_adapters.laws import LAWS, check


def any_angles(rotation: Rotation, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rotation.angle_shape, generator=generator, dtype=torch.float64).to(dtype)


def test_check_passes_on_a_custom_shape() -> None:
    check(12, block_size=6, stages=3, dtype=torch.float64, examples=5)


def skewed(x: torch.Tensor, angles: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    return rotate(x, angles, rotation) * 1.001


def mirrored(angles: torch.Tensor, rotation: Rotation, dtype: torch.dtype) -> torch.Tensor:
    return rotation_matrix(angles, rotation, dtype)[[1, 0, *range(2, rotation.width)]]


def bent(x: torch.Tensor, angles: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    return rotate(x, angles, rotation) + x.square()


def wasteful(x: torch.Tensor, angles: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    dense = rotation_matrix(angles, rotation, x.dtype)
    for _ in range(32):
        x = x @ dense
    return x


def with_a_lost_gradient(x: torch.Tensor, angles: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    return rotate(x, angles.detach(), rotation) + 0 * angles.sum()


@pytest.mark.parametrize(
    ("law", "patched", "broken"),
    [
        (
            "orthogonal",
            "rotation_matrix",
            lambda angles, rotation, dtype: rotation_matrix(angles, rotation, dtype) * 1.001,
        ),
        ("norm_preserved", "rotate", skewed),
        ("inverse", "rotate_back", rotate),
        ("determinant_one", "rotation_matrix", mirrored),
        ("identity_at_zero", "rotate", skewed),
        ("fast_equals_reference", "rotate", skewed),
        ("fast_equals_reference", "rotate", with_a_lost_gradient),
        ("linear", "rotate", bent),
        ("linear_cost", "rotate", wasteful),
    ],
)
def test_a_law_fails_when_it_is_violated(
    law: str, patched: str, broken: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = Rotation.of(128)
    angles = any_angles(rotation, torch.float32)
    LAWS[law](rotation, angles)
    monkeypatch.setattr(laws, patched, broken)
    with pytest.raises(AssertionError):
        LAWS[law](rotation, angles)


def test_check_names_the_violated_law_and_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laws, "rotate", skewed)
    message = (
        r"norm_preserved does not hold for Rotation\(width=8, block_size=4, stages=2\) in torch.float32 on cpu: off by"
    )
    with pytest.raises(AssertionError, match=message):
        check(8, block_size=4, examples=5)


def test_without_hypothesis_only_importing_the_laws_fails_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "slm_adapters.laws")
    with pytest.raises(ImportError, match=r"^slm_adapters.laws needs hypothesis; install slm-adapters\[laws\]$"):
        importlib.import_module("slm_adapters.laws")
    importlib.reload(importlib.import_module("slm_adapters.layer_laws"))
