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


def test_check_passes_on_a_shape_of_ones_own() -> None:
    check(12, block_size=6, stages=3, dtype=torch.float64, examples=5)


def skewed(x: torch.Tensor, some: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    return rotate(x, some, rotation) * 1.001


def mirrored(some: torch.Tensor, rotation: Rotation, dtype: torch.dtype) -> torch.Tensor:
    return rotation_matrix(some, rotation, dtype)[[1, 0, *range(2, rotation.width)]]


def bent(x: torch.Tensor, some: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    return rotate(x, some, rotation) + x.square()


def wasteful(x: torch.Tensor, some: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    dense = rotation_matrix(some, rotation, x.dtype)
    for _ in range(32):
        x = x @ dense
    return x


def with_a_lost_gradient(x: torch.Tensor, some: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    return rotate(x, some.detach(), rotation) + 0 * some.sum()


@pytest.mark.parametrize(
    ("law", "patched", "broken"),
    [
        ("orthogonal", "rotation_matrix", lambda some, rotation, dtype: rotation_matrix(some, rotation, dtype) * 1.001),
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
def test_a_law_fails_where_it_is_broken(
    law: str, patched: str, broken: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = Rotation.of(128)
    some = any_angles(rotation, torch.float32)
    LAWS[law](rotation, some)
    monkeypatch.setattr(laws, patched, broken)
    with pytest.raises(AssertionError):
        LAWS[law](rotation, some)


def test_check_names_the_broken_law_and_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laws, "rotate", skewed)
    message = (
        r"norm_preserved does not hold for Rotation\(width=8, block_size=4, stages=2\) in torch.float32 on cpu: off by"
    )
    with pytest.raises(AssertionError, match=message):
        check(8, block_size=4, examples=5)


def test_without_hypothesis_only_the_laws_are_missing_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "slm_adapters.laws")
    with pytest.raises(ImportError, match=r"^slm_adapters.laws needs hypothesis; install slm-adapters\[laws\]$"):
        importlib.import_module("slm_adapters.laws")
    importlib.reload(importlib.import_module("slm_adapters.layer_laws"))
