"""Packed rows, causality and the fused loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slm_testing.zoo.architecture import Architecture
from slm_testing.zoo.checks.outcome import YES, Outcome, because
from slm_testing.zoo.checks.reference import (
    assert_close,
    logits_of,
    longrope_switch,
    positions_of,
    random_ids,
    relative_difference,
)
from slm_testing.zoo.models import build, shared
from slm_train import FusedLoss, find_causality_fault, find_packing_fault

BLOCK_SIZE = 64
# Documents of packed rows, in tokens; the last two rows reach beyond windows and chunks.
ROWS = ((5, 9, 4), (2, 20, 10), (21, 19, 3), (2, 40, 22))
LEAK = 1e-3  # relative difference of logits; rounding is below 1e-4


def packing(architecture: Architecture) -> Outcome:
    """Compare ``find_packing_fault`` with the truth, and padded rows with each document alone."""
    model = shared(architecture.name)
    block_size = min(BLOCK_SIZE, positions_of(model))
    fault = find_packing_fault(model, block_size)
    leaks = not all(_packed_is_alone(model, lengths) for lengths in ROWS if sum(lengths) <= block_size)
    assert leaks == bool(fault), f"packed documents {'' if leaks else 'do not '}leak; the check says {fault}"
    _assert_padding_changes_nothing(model)
    return because("no", fault) if fault else YES


def causality(architecture: Architecture) -> Outcome:
    """Compare ``find_causality_fault`` with the truth."""
    model = shared(architecture.name)
    ids = torch.tensor([random_ids(40), random_ids(40)])
    ids[1, 30:] = torch.tensor(random_ids(10, seed=1))
    before, after = logits_of(model, ids)[:, :30]
    fault = find_causality_fault(model)
    assert bool(fault) == (relative_difference(after, before) > LEAK), fault
    return because("no", fault) if fault else YES


def fused_loss(architecture: Architecture) -> Outcome:
    """Compare loss and gradients of the fused and of the plain loss, if the fused one is said to fit."""
    model = build(architecture.name)
    fused = FusedLoss.fitting(model)
    if fused is None:
        return because("no", "the model's own loss is used: its output layer or its loss is not the plain one")
    for seed, tokens in enumerate((7, 33)):
        plain_loss, plain = _gradients(model, seed, tokens)
        with fused():
            loss, gradients = _gradients(model, seed, tokens)
        assert abs(loss - plain_loss) <= 1e-4 * plain_loss, f"fused loss {loss}, plain loss {plain_loss}"
        assert gradients.keys() == plain.keys()
        for name, gradient in plain.items():
            difference = float((gradients[name] - gradient).norm())
            assert difference <= 1e-3 * float(gradient.norm()) + 1e-6, f"the gradients of {name} differ"
    return YES


def _packed_is_alone(model: Any, lengths: tuple[int, ...]) -> bool:
    documents = [random_ids(length, seed) for seed, length in enumerate(lengths)]
    ids = [token for document in documents for token in document]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    try:
        packed = logits_of(model, ids, position_ids=positions)[0].split(lengths)
    except TypeError:  # it has no argument position_ids
        return False
    return all(
        relative_difference(logits, logits_of(model, document)[0]) <= LEAK
        for logits, document in zip(packed, documents, strict=True)
    )


def _assert_padding_changes_nothing(model: Any) -> None:
    most = min(positions_of(model), longrope_switch(model))
    documents = [random_ids(min(length, most), seed=length) for length in (6, 26, 45)]
    longest = max(map(len, documents))
    padded = torch.tensor([[*document, *[1] * (longest - len(document))] for document in documents])
    for document, logits in zip(documents, logits_of(model, padded), strict=True):
        assert_close(logits[: len(document)], logits_of(model, document)[0])


def _gradients(model: Any, seed: int, tokens: int) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients of a batch of two rows, in which some tokens have no loss."""
    ids = torch.tensor([random_ids(tokens, seed), random_ids(tokens, seed + 10)])
    labels = ids.clone()
    labels[1, : tokens // 2] = -100
    model.zero_grad()
    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return float(loss.detach()), gradients
