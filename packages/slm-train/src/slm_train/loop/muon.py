"""Muon for the matrices inside the transformer blocks, AdamW for everything else.

Muon (Jordan 2024; scaled as in Liu et al. 2025, arXiv:2502.16982) replaces a matrix's momentum by the nearest
orthogonal matrix. torch.optim.Muon iterates in bfloat16 on every device, which takes three times as long as float32 on
a CPU that emulates bfloat16. This implementation iterates in the precision of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: they maximise the slope at zero, not the accuracy at one
_ADAMW_RMS = 0.2  # typical root mean square of an AdamW update (Liu et al. 2025)


def orthogonalized(update: Tensor, steps: int = 5) -> Tensor:
    """Return ``update [..., m, n]`` with its singular values close to 1 (quintic Newton-Schulz iteration)."""
    a, b, c = _COEFFICIENTS
    is_tall = update.size(-2) > update.size(-1)
    x = update.mT if is_tall else update  # the Gram matrix of the shorter side is the smaller product
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


class MuonWithAdamW(Optimizer):
    """Muon for parameter groups with ``"muon": True``, AdamW for those with ``"muon": False``.

    Muon updates are scaled to the root mean square of AdamW updates, so that one learning rate suits both. Matrices of
    the same shape are updated together. The state consists of tensors, so ``torch.load(weights_only=True)`` reads it.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float = 0.95,
        eps: float = 1e-8,
    ):
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "momentum": momentum, "eps": eps}
        super().__init__(list(groups), defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            (self._muon if group["muon"] else self._adamw)(trained, group)
        return loss

    def _muon(self, trained: list[Tensor], group: dict[str, Any]) -> None:
        for shape in dict.fromkeys(p.shape for p in trained):
            same_shape = [p for p in trained if p.shape == shape]
            rms = _ADAMW_RMS * math.sqrt(max(shape))
            updates = orthogonalized(torch.stack([self._momentum(p, group["momentum"]) for p in same_shape]))
            for parameter, update in zip(same_shape, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * rms)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        buffer = state.setdefault("momentum", torch.zeros_like(parameter))
        buffer.lerp_(grad, 1 - momentum)
        return grad.lerp(buffer, momentum)  # Nesterov

    def _adamw(self, trained: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for parameter in trained:
            state, grad = self.state[parameter], parameter.grad
            assert grad is not None
            if not state:
                state.update(step=torch.zeros(()), mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
            state["step"] += 1
            steps = float(state["step"])
            state["mean"].lerp_(grad, 1 - beta1)
            state["square"].lerp_(grad.square(), 1 - beta2)
            scale = (state["square"] / (1 - beta2**steps)).sqrt_().add_(group["eps"])
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.addcdiv_(state["mean"], scale, value=-group["lr"] / (1 - beta1**steps))


def muon_groups(model: nn.Module, input_embeddings: nn.Module) -> list[dict[str, Any]]:
    """Return two parameter groups: matrices of linear layers for Muon, everything else for AdamW.

    Embeddings (with a tied output layer), norms and biases go to AdamW, without weight decay.
    """
    embeddings = {id(p) for p in input_embeddings.parameters()}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    muon = [p for name, p in named if p.ndim == 2 and id(p) not in embeddings and not _is_lookup_table(name)]
    in_muon = {id(p) for p in muon}
    adamw = [p for _, p in named if id(p) not in in_muon]
    return [{"params": muon, "muon": True}, {"params": adamw, "muon": False, "weight_decay": 0.0}]


def _is_lookup_table(name: str) -> bool:
    """Return whether a matrix is a table of vectors: position embeddings, or an output layer that is not tied."""
    return any(part in name for part in ("wpe", "embed", "lm_head"))
