"""The output layer and the cross-entropy as one step, a chunk of tokens at a time.

Logits are the largest tensor of a small model: 2,048 tokens of GPT-2's vocabulary are 412 MB in float32,
and the usual way holds four such: logits, log-probabilities, and the gradient of each. Here a chunk's
logits turn into their own gradient at once, while the processor still has them at hand, and only that is
kept, in the precision of the products. Same products, same softmax in float32, same result.
The idea is that of Liger-Kernel's fused linear cross-entropy (Hsu et al. 2024, arXiv:2410.10989).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import TrainingArguments

from slm_data import IGNORE_INDEX as IGNORE

KEPT = 256 * 2**20  # bytes of gradients of logits at once: what the large products work on
AT_HAND = 24 * 2**20  # bytes of a chunk in float32: small enough for a CPU's last cache


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy, in nats, of ``hidden @ weight.T`` against ``targets``, times ``scale``.

    ``hidden [tokens, width]``, ``weight [vocabulary, width]``, ``targets [tokens]`` with IGNORE where
    there is no loss, ``scale`` a scalar. Products are taken in ``dtype``. Gradients are computed on the
    way forward and given away, so a second backward raises RuntimeError.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        tokens, vocabulary = len(hidden), len(weight)
        exact = torch.promote_types(dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        wanted_hidden, wanted_weight = ctx.needs_input_grad[:2]
        ctx.hidden = torch.empty_like(hidden) if wanted_hidden else None
        ctx.weight = None
        low_weight = weight.to(dtype)
        group = max(1, min(tokens, KEPT // (vocabulary * dtype.itemsize)))
        chunk = group if hidden.is_cuda else max(1, AT_HAND // (vocabulary * exact.itemsize))
        kept = torch.empty(group, vocabulary, dtype=dtype, device=hidden.device)
        for start in range(0, tokens, group):
            rows = slice(start, start + group)
            inputs = hidden[rows].to(dtype)
            gradients = kept[: len(inputs)]
            for at in range(0, len(inputs), chunk):
                part = slice(at, at + chunk)
                logits = torch.mm(inputs[part], low_weight.t(), out=gradients[part])
                total += _turn_into_gradient(logits, targets[rows][part], exact)
            if wanted_hidden:
                ctx.hidden[rows] = gradients @ low_weight
            if wanted_weight:
                product = gradients.t() @ inputs
                ctx.weight = product.to(weight.dtype) if ctx.weight is None else ctx.weight.add_(product)
        ctx.scale = scale  # applied last: float16 gradients of single logits would vanish
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, ctx.hidden, ctx.weight = ctx.hidden, ctx.weight, None, None
        if hidden is None and weight is None:
            raise RuntimeError("the fused loss gives its gradients away: backward runs once")
        factor = outer * ctx.scale
        scaled = [found.mul_(factor.to(found.dtype)) if found is not None else None for found in (hidden, weight)]
        return (*scaled, None, None, None)


def _turn_into_gradient(logits: Tensor, targets: Tensor, exact: torch.dtype) -> Tensor:
    """Overwrite ``logits [tokens, vocabulary]`` with the gradient of their summed loss, and return that."""
    counts = (targets != IGNORE).to(exact)
    chosen = targets.clamp(min=0)[:, None]
    log_probabilities = torch.log_softmax(logits, 1, dtype=exact)
    loss = -(log_probabilities.gather(1, chosen).squeeze(1) * counts).sum()
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(1, chosen, gradient.new_full(chosen.shape, -1.0))
    logits.copy_(gradient.mul_(counts[:, None]))
    return loss


class FusedLoss:
    """Makes a causal language model compute its training loss by LinearCrossEntropy.

    Within ``with fused():`` the output layer hands hidden states on, and the model's loss function takes
    them from there: forward is still that of the model, as DDP needs it.
    """

    def __init__(self, model: Any, head: Any):
        self.head, self.on = head, False
        self._usual_loss, self._usual_head = model.loss_function, head.forward
        model.loss_function, head.forward = self._loss, self._forward

    @classmethod
    def fitting(cls, model: nn.Module) -> FusedLoss | None:
        """Install on ``model``, a PeftModel too; None where its loss is not that of a plain output layer,
        which is found out by computing a small loss both ways."""
        held: Any = model
        causal = held.get_base_model() if hasattr(held, "get_base_model") else held
        head = causal.get_output_embeddings()
        if type(head) is not nn.Linear or head.bias is not None:
            return None
        fused = cls(causal, head)
        if not fused._agrees(causal):
            fused._remove(causal)
            return None
        return fused

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.on = True
        try:
            yield
        finally:
            self.on = False

    @torch.no_grad()
    def _agrees(self, model: Any) -> bool:
        training = model.training
        model.eval()
        ids = torch.arange(8, device=self.head.weight.device)[None]
        usual = model(input_ids=ids, labels=ids, use_cache=False).loss
        with self():
            fused = model(input_ids=ids, labels=ids, use_cache=False).loss
        model.train(training)
        return bool(torch.isclose(usual.float(), fused.float(), rtol=1e-5))

    def _remove(self, model: Any) -> None:
        model.loss_function, self.head.forward = self._usual_loss, self._usual_head

    def _forward(self, hidden: Tensor) -> Any:
        return hidden if self.on else self._usual_head(hidden)

    def _loss(
        self, logits: Tensor, labels: Tensor, vocab_size: int, num_items_in_batch: Any = None, **more: Any
    ) -> Any:
        if not self.on:
            return self._usual_loss(logits, labels, vocab_size, num_items_in_batch=num_items_in_batch, **more)
        targets = nn.functional.pad(labels, (0, 1), value=IGNORE)[..., 1:].reshape(-1)
        count = (targets != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch
        scale = 1 / torch.as_tensor(count, device=logits.device, dtype=torch.float32)
        return linear_cross_entropy(logits.reshape(len(targets), -1), self.head.weight, targets, scale)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """LinearCrossEntropy, with products in the precision of autocast where that is on."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = LinearCrossEntropy.apply(hidden, weight, targets, scale, dtype)
    return loss


def loss_context(
    model: nn.Module, training: TrainingArguments, wanted: bool
) -> Callable[[], AbstractContextManager[None]]:
    """What a training forward of ``model`` runs in: its FusedLoss where that is ``wanted`` and fits."""
    fused = FusedLoss.fitting(model) if wanted and _can_fuse(training) else None
    return fused or nullcontext


def _can_fuse(training: TrainingArguments) -> bool:
    """Whether nothing else wants the logits, and the output layer is whole on every process."""
    wants_logits = training.label_smoothing_factor or training.use_liger_kernel or training.torch_compile
    return not (wants_logits or training.fsdp or training.deepspeed)
