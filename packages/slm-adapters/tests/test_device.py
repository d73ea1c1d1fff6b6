"""The device that models are loaded on by default, and which devices have float64."""

from __future__ import annotations

import pytest
import torch

from slm_adapters.base.device import default_device, has_float64


def test_the_default_device_is_the_accelerator_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device().type == "cpu"
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    assert default_device().type == "xpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert default_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device().type == "cuda"


def test_a_device_that_raises_for_float64_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(has_float64(torch.device(name)) for name in ("cpu", "cuda", "meta"))

    def empty(*_: object, **named: object) -> None:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(torch, "empty", empty)
    assert not has_float64(torch.device("mps"))
