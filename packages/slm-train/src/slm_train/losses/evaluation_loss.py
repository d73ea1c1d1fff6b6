"""The loss of an evaluation batch, with logits in memory only for some of its tokens at a time.

The logits of a batch are the largest tensor of a small model: 412 MB in float32 for 8 rows of 256 tokens of GPT-2's
vocabulary, and log-probabilities are another. Training computes them in chunks (``linear_cross_entropy``); here so does
evaluation, with any output layer, so that whatever trains can be evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from slm_data import IGNORE_INDEX
from slm_train.losses.linear_cross_entropy import CACHE_BYTES, MAX_GRADIENT_BYTES
from slm_train.verification.undisturbed import undisturbed

# Logits that the output layer computes at a time. Under autocast its weight is converted at each call, which takes as
# long as the products of some 30 tokens.
MAX_LOGIT_BYTES = MAX_GRADIENT_BYTES // 2
_PROBE_TOKENS = 8
_LOGIT_SIZE = 100.0  # large, so that a cap changes them


class EvaluationLoss:
    """Computes the summed loss of batches of a causal language model.

    If the model's logits are exactly what its output layer returns, hidden states are computed for the whole batch, and
    logits for chunks of those tokens that are followed by one with a label. Otherwise (logits that are scaled or
    capped, as in Gemma 2) the batch is divided into groups of rows. Log-probabilities are computed in chunks always.

    Args:
        head: The output layer if the model returns its logits unchanged, else None.
        vocabulary: The size of a logit vector.
        divides_batches: Whether a batch may be divided into groups of rows. Not for sharded models, whose processes
            must make the same number of forward passes.
    """

    def __init__(self, head: nn.Module | None, vocabulary: int, *, divides_batches: bool = True):
        self.head, self.vocabulary, self.divides_batches = head, vocabulary, divides_batches

    @classmethod
    def fitting(cls, model: nn.Module, training: TrainingArguments | None = None) -> EvaluationLoss:
        """Choose how to compute the loss of ``model``, which may be a PeftModel, by running it on a few tokens."""
        any_model: Any = model
        causal = any_model.get_base_model() if hasattr(any_model, "get_base_model") else any_model
        vocabulary = int(getattr(causal.config.get_text_config(), "vocab_size", 0) or 0)
        is_sharded = training is not None and bool(training.fsdp or training.deepspeed)
        if is_sharded or (training is not None and training.torch_compile):
            return cls(None, vocabulary, divides_batches=not is_sharded)
        head = causal.get_output_embeddings()
        return cls(head if isinstance(head, nn.Module) and _keeps_logits(causal, head) else None, vocabulary)

    def __call__(self, model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, int]:
        """Return the summed negative log likelihood in nats, in float64 on the CPU, and the number of tokens in it.

        Args:
            model: The model as accelerate wrapped it, in evaluation mode; autocast is the caller's.
            inputs: ``input_ids`` and other inputs, each ``[batch, tokens]``.
            labels: ``[batch, tokens]``; position t predicts the label of t + 1.
        """
        sums: list[Tensor] = []
        is_predicted = labels[:, 1:] != IGNORE_INDEX
        for rows in self._row_groups(labels):
            predicted, targets = is_predicted[rows], labels[rows, 1:][is_predicted[rows]]
            part = {name: value[rows] for name, value in inputs.items()}
            for logits, expected in zip(*self._chunks(model, part, predicted, targets), strict=True):
                sums += _summed_nll(logits, expected)
        # One transfer for the whole batch: reading each sum would make the CPU wait for a GPU.
        return torch.stack(sums).cpu().double().sum(), int(is_predicted.sum())

    def _row_groups(self, labels: Tensor) -> Iterator[slice]:
        """Yield slices of the batch: all of it, or as many rows as ``MAX_LOGIT_BYTES`` allows."""
        rows, tokens = labels.shape
        size = rows
        if self.head is None and self.divides_batches:
            size = max(1, MAX_LOGIT_BYTES // (torch.float32.itemsize * max(self.vocabulary, 1) * tokens))
        for start in range(0, rows, size):
            yield slice(start, start + size)

    def _chunks(
        self, model: nn.Module, inputs: dict[str, Tensor], predicted: Tensor, targets: Tensor
    ) -> tuple[Iterator[Tensor], tuple[Tensor, ...]]:
        """Return logits ``[chunk, vocabulary]`` and targets ``[chunk]`` of each chunk of the predicted tokens."""
        # With the default cache, packed documents attend to each other (transformers 5: logits differ by up to 0.19).
        if self.head is None:
            logits = model(**inputs, use_cache=False).logits[:, :-1][predicted]
            return iter([logits]), (targets,)
        with _passing_hidden_states(self.head):
            hidden = model(**inputs, use_cache=False).logits[:, :-1][predicted]
        size = max(1, MAX_LOGIT_BYTES // (torch.float32.itemsize * max(self.vocabulary, 1)))
        return map(self.head, hidden.split(size)), targets.split(size)


def _summed_nll(logits: Tensor, targets: Tensor) -> list[Tensor]:
    """Return the summed negative log likelihood of each chunk of ``logits [tokens, vocabulary]``."""
    exact = torch.promote_types(logits.dtype, torch.float32)
    most = CACHE_BYTES if logits.device.type == "cpu" else MAX_LOGIT_BYTES  # on a GPU fewer kernels instead
    size = max(1, most // (torch.float32.itemsize * logits.shape[-1]))
    return [
        -torch.log_softmax(part, 1, dtype=exact).gather(1, expected[:, None]).sum()
        for part, expected in zip(logits.split(size), targets.split(size), strict=True)
    ]


@contextmanager
def _passing_hidden_states(head: nn.Module) -> Iterator[None]:
    """Make ``head`` return its input, so that the model returns hidden states as its logits."""
    with _replaced_forward(head, lambda hidden: hidden):
        yield


def _keeps_logits(causal: Any, head: nn.Module) -> bool:
    """Return whether a causal language model returns exactly what ``head`` returns, for each token by itself.

    Large random logits in place of those of the head show that, whatever the weights are. That the head treats tokens
    one by one is seen by comparing losses.
    """
    ids = torch.arange(_PROBE_TOKENS, device=next(causal.parameters()).device)[None]
    usual_forward: Any = head.forward
    random_logits: list[Tensor] = []

    def random_head(hidden: Tensor) -> Tensor:
        logits = usual_forward(hidden)
        generator = torch.Generator().manual_seed(len(random_logits))
        random_logits.append((_LOGIT_SIZE * torch.randn(logits.shape, generator=generator)).to(logits))
        return random_logits[-1].clone()

    with undisturbed(causal, training=False):
        with _replaced_forward(head, random_head):
            returned = causal(input_ids=ids, use_cache=False).logits
        if len(random_logits) != 1 or not _are_equal(returned, random_logits[0]):
            return False
        return _agrees(causal, head, ids)


def _agrees(causal: Any, head: nn.Module, ids: Tensor) -> bool:
    logits = causal(input_ids=ids, use_cache=False).logits[0]
    with _passing_hidden_states(head):
        hidden = causal(input_ids=ids, use_cache=False).logits[0]
    apart = torch.cat([head(part) for part in hidden.split(3)])
    return apart.shape == logits.shape and torch.allclose(apart.float(), logits.float(), rtol=1e-3, atol=1e-3)


def _are_equal(values: Tensor, expected: Tensor) -> bool:
    return values.shape == expected.shape and torch.equal(values.cpu().double(), expected.cpu().double())


@contextmanager
def _replaced_forward(head: nn.Module, forward: Any) -> Iterator[None]:
    attributes = vars(head)
    usual = attributes.get("forward")  # None: that of its class
    attributes["forward"] = forward
    try:
        yield
    finally:
        del attributes["forward"]
        if usual is not None:
            attributes["forward"] = usual
