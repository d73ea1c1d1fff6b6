"""LoRA and butterfly adapters on their default target layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from slm_adapters import AdapterError, ButterflySettings, LoraSettings, add_butterfly, add_lora
from slm_testing.zoo.architecture import Architecture
from slm_testing.zoo.checks.outcome import YES, Outcome, because
from slm_testing.zoo.checks.reference import assert_close, logits_of, random_ids, relative_difference
from slm_testing.zoo.models import build, shared


def lora(architecture: Architecture) -> Outcome:
    """A new LoRA is the identity, and merging a trained one changes no logits."""
    return _check(architecture, lambda model: add_lora(model, LoraSettings()))


def butterfly(architecture: Architecture) -> Outcome:
    """A new butterfly adapter is the identity, and merging a trained one changes no logits."""
    return _check(architecture, lambda model: add_butterfly(model, ButterflySettings()))


def _check(architecture: Architecture, add: Callable[[PreTrainedModel], PeftModel]) -> Outcome:
    ids = torch.tensor([random_ids(24, seed=1), random_ids(24, seed=2)])
    before = logits_of(shared(architecture.name), ids)
    try:
        adapted: Any = add(build(architecture.name)).eval()
    except AdapterError as refusal:
        return because("no", refusal)
    assert_close(logits_of(adapted, ids), before)
    _change_adapter(adapted)
    after = logits_of(adapted, ids)
    assert relative_difference(after, before) > 0.01, "the adapter has no effect"
    assert_close(logits_of(adapted.merge_and_unload(), ids), after, tolerance=5e-3)
    return YES


@torch.no_grad()
def _change_adapter(model: Any) -> None:
    """Add random values to all trainable parameters, as training would."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.03)
