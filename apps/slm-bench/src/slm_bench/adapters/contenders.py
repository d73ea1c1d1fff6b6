"""Contenders: adapter methods on the shared base model, and their training step."""

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor

from slm_adapters import ButterflyModel
from slm_bench.adapters.base_models import share_weights
from slm_bench.adapters.methods import Configure, Method

LEARNING_RATE = 1e-2  # large enough for a few steps to move every method away from the base
FROZEN = "the frozen base"


@dataclass(frozen=True)
class Contender:
    """One of the compared models, with its optimizer. It shares the base's weights."""

    name: str
    model: Any
    optimizer: torch.optim.Optimizer | None  # None for the base alone
    bf16: bool

    @property
    def is_butterfly(self) -> bool:
        return isinstance(getattr(self.model, "base_model", None), ButterflyModel)

    def step(self, input_ids: Tensor) -> None:
        """Run forward, backward and AdamW on ``input_ids`` [rows, tokens]."""
        self.micro_batch(input_ids)
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        if input_ids.device.type == "cuda":
            torch.cuda.synchronize()

    def micro_batch(self, input_ids: Tensor) -> None:
        """Run forward and backward.

        The base alone has nothing to train: its backward pass goes to the input embeddings.
        """
        inputs = {"input_ids": input_ids}
        if self.optimizer is None:
            inputs = {"inputs_embeds": self.model.get_input_embeddings()(input_ids).requires_grad_()}
        with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.model(**inputs, labels=input_ids, use_cache=False).loss
        loss.backward()


@torch.no_grad()
def eval_logits(model: Any, input_ids: Tensor) -> Tensor:
    """Return logits [rows, tokens, vocabulary] in eval mode; the mode of ``model`` is restored."""
    training = model.training
    logits: Tensor = model.eval()(input_ids=input_ids, use_cache=False).logits
    model.train(training)
    return logits


def add_adapter(base: Any, configure: Configure, targets: Sequence[str], seed: int = 0) -> Any:
    """Return ``base`` with an adapter and shared weights. Raises ValueError if the method does not fit ``targets``."""
    torch.manual_seed(seed)
    model = share_weights(base)
    # PEFT 0.21 tries to compile CUDA kernels for BOFT and warns twice on a machine without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="peft.tuners.boft")
        return get_peft_model(model, configure(model, targets))


def make_contenders(
    base: Any, methods: Iterable[Method], targets: Sequence[str], bf16: bool
) -> tuple[list[Contender], dict[str, str]]:
    """Return the base alone and each method on it, and the methods that do not fit with the reason."""
    contenders, left_out = [Contender(FROZEN, share_weights(base), None, bf16)], dict[str, str]()
    for method in methods:
        try:
            model = add_adapter(base, method.configure, targets).train()
        except ValueError as error:
            left_out[method.name] = str(error)
            continue
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        contenders.append(Contender(method.name, model, torch.optim.AdamW(trained, lr=LEARNING_RATE), bf16))
    return contenders, left_out
