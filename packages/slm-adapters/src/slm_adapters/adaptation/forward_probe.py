"""A forward pass over a few tokens that records which modules the model calls, and what they compute.

No import of PEFT here: the butterfly method imports this module while PEFT may be half initialised.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters.base.quantization import is_quantized, keep_layout
from slm_adapters.errors import AdapterError

PROBE_TOKENS = 4
_TOLERANCE = 1e-2  # of the largest output: far above rounding, far below another computation
_PLAIN_FORWARDS = (nn.Linear.forward, Conv1D.forward, nn.Embedding.forward)


@dataclass
class Observation:
    """What a forward pass did.

    Attributes:
        logits: ``[1, tokens, vocabulary]``, or None without a forward pass (weights on the meta device).
        called: The names of the observed modules that were called.
        special: Those that returned something else than a matrix product or rows of their weight.
    """

    logits: Tensor | None = None
    called: set[str] = field(default_factory=set)
    special: set[str] = field(default_factory=set)

    def uses(self, name: str) -> bool:
        """Whether the model calls ``name``, or the same module of another block or expert: routing varies."""
        return self.logits is None or _pattern(name) in {_pattern(called) for called in self.called}

    def is_special(self, name: str) -> bool:
        """Whether ``name``, or the same module of another block or expert, computes something else."""
        return _pattern(name) in {_pattern(special) for special in self.special}


def observe(model: PreTrainedModel, modules: Mapping[str, nn.Module], *, training: bool = False) -> Observation:
    """Run ``model`` on a few tokens without gradients, in eval mode or as in ``training``, and observe ``modules``.

    The model's modes and the state of torch's random numbers are restored.

    Raises:
        AdapterError: The forward pass fails.
    """
    observation = Observation()
    if any(parameter.is_meta for parameter in model.parameters()):
        return observation
    for module in modules.values():
        keep_layout(module)
    hooks = [module.register_forward_hook(partial(_record, observation, name)) for name, module in modules.items()]
    try:
        with _restored(model), torch.no_grad():
            model.train(training)
            observation.logits = model(**_inputs(model)).logits
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise AdapterError(
            f"a forward pass of this {type(model).__name__} failed ({reason}); adapters need a causal language model "
            "that runs on tokens alone"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return observation


def _inputs(model: PreTrainedModel) -> dict[str, Any]:
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    # The last token too: it is the one that a failed resize leaves out.
    ids = torch.tensor([[*(token % rows for token in range(PROBE_TOKENS - 1)), rows - 1]])
    inputs: dict[str, Any] = {"input_ids": ids.to(embeddings.weight.device)}
    any_model: Any = model
    base = any_model.get_base_model() if hasattr(model, "get_base_model") else any_model
    if "use_cache" in inspect.signature(base.forward).parameters:
        inputs["use_cache"] = False
    return inputs


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every module, and the random numbers of the CPU, afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _record(observation: Observation, name: str, module: nn.Module, args: Any, output: Any) -> None:
    observation.called.add(name)
    if hasattr(module, "weight") and not is_plain_class(module) and not _is_plain_output(module, args, output):
        observation.special.add(name)


def is_plain_class(layer: nn.Module) -> bool:
    """Whether the class of ``layer`` is known to compute a matrix product, or to look rows up."""
    return type(layer).forward in _PLAIN_FORWARDS or is_quantized(layer)


def _is_plain_output(layer: Any, args: Any, output: Any) -> bool:
    try:
        if isinstance(layer, nn.Embedding):
            scale = getattr(layer, "embed_scale", 1.0)  # as PEFT handles it
            expected = nn.functional.embedding(args[0], layer.weight) * scale
        elif isinstance(layer, Conv1D):
            expected = args[0] @ layer.weight + layer.bias
        else:
            expected = nn.functional.linear(args[0], layer.weight, layer.bias)
        if expected.shape != output.shape:
            return False
        return bool((expected.float() - output.float()).abs().max() <= _TOLERANCE * expected.float().abs().max())
    except (AttributeError, IndexError, RuntimeError, TypeError):  # other inputs, or no tensor as output
        return False


def _pattern(name: str) -> str:
    """``name`` with # for the numbers of blocks and experts."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "#", name)
