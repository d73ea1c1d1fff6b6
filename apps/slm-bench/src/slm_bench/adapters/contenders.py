"""A method on the base, and its training step."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor

from slm_adapters import ButterflyModel
from slm_bench.adapters.bases import sharing
from slm_bench.adapters.methods import Method
from slm_train import count_parameters

RATE = 1e-2  # large enough that a few steps move every method away from the base
FROZEN = "the frozen base"


@dataclass(frozen=True)
class Contender:
    """A model that shares the base's weights; without an optimizer it is the base alone."""

    name: str
    model: Any
    optimizer: torch.optim.Optimizer | None
    bf16: bool

    @property
    def trainable(self) -> int:
        return count_parameters(self.model).trainable

    @property
    def ours(self) -> bool:
        """Whether it is a butterfly."""
        return isinstance(getattr(self.model, "base_model", None), ButterflyModel)

    def step(self, input_ids: Tensor) -> None:
        """Forward, backward and AdamW; of the base alone the same way forward and back, with nothing to train."""
        device = input_ids.device.type
        given = {"input_ids": input_ids}
        if self.optimizer is None:
            given = {"inputs_embeds": self.model.get_input_embeddings()(input_ids).requires_grad_()}
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            loss = self.model(**given, labels=input_ids, use_cache=False).loss
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def logits(self, input_ids: Tensor) -> Tensor:
        """In eval mode, float32."""
        return logits(self.model, input_ids)


@torch.no_grad()
def logits(model: Any, input_ids: Tensor) -> Tensor:
    """``[rows, tokens, vocabulary]`` in eval mode; ``model`` is left as it was."""
    training = model.training
    found: Tensor = model.eval()(input_ids=input_ids, use_cache=False).logits
    model.train(training)
    return found


def adapted(base: Any, method: Method, targets: Sequence[str]) -> Any:
    """``base`` with ``method`` on it, its weights shared. Raises ValueError where the method does not fit them."""
    torch.manual_seed(0)
    model = sharing(base)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="peft.tuners.boft")  # it has kernels for GPUs alone, and says so
        return get_peft_model(model, method.configure(model, targets))


def contenders(
    base: Any, methods: Iterable[Method], targets: Sequence[str], bf16: bool
) -> tuple[list[Contender], dict[str, str]]:
    """The base alone and each method on it; and those that do not fit it, with the reason."""
    found, left_out = [Contender(FROZEN, sharing(base), None, bf16)], dict[str, str]()
    for method in methods:
        try:
            model = adapted(base, method, targets).train()
        except ValueError as refused:
            left_out[method.name] = str(refused)
            continue
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found.append(Contender(method.name, model, torch.optim.AdamW(trained, lr=RATE), bf16))
    return found, left_out
