"""Building a model's compiled decode step, and comparing its logits with those of the model itself.

The step multiplies by weights of 16 bits exactly, and keeps everything else in float32. So it is compared on pages in
float32 with the model in float32, which has the same weights; in bfloat16 the model's own error hides a wrong step.
Products with weights in 8 or 4 bits round their inputs to 8 bits, an error that grows to 10 % of the logits in deep
models. In the comparison they are corrected by products with what was rounded off, through the same compiled code, so
that the same tolerance holds.

Shapes: T tokens of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slm_kv.engine.verification.comparison import (
    LAST_ROWS,
    SHORT,
    Subject,
    own_logits,
    relative_errors,
    tokens_past_window,
)
from slm_kv.engine.verification.float32_weights import float32_weights
from slm_kv.engine.verification.model_state import keep_state
from slm_kv.linear.quantised_linear import QuantisedLinear, widening_exactly
from slm_kv.optional_imports import import_optional
from slm_kv.pages.storage import PagedStorage
from slm_kv.peft_models import base_model, keep_adapter_state, only_adapter

if TYPE_CHECKING:  # numba may not be installed
    from slm_kv.decode_step.blocks import ModelDescription
    from slm_kv.decode_step.step import DecodeStep

# The largest error of a row, relative to the spread of its logits: in float32 at most 1.7e-6 in right structures.
TOLERANCE = 1e-4
# The median of all rows. The step keeps in float32 what the model rounds to bfloat16.
LOW_PRECISION_TOLERANCE = 0.1
# On pages, for texts of so many positions, and whether it is exact.
MakeStep = Callable[[PagedStorage, int, bool], "DecodeStep | None"]
FIRST_ROWS, OTHER_TOKENS = 4, 4  # together at most ``MIN_ROWS``: of a text's first step, and of a text beside it


@dataclass(frozen=True)
class CompiledStep:
    """A model's compiled decode step, or the reason why there is none, as a clause."""

    description: ModelDescription | None
    reason: str = ""

    @property
    def summary(self) -> str:
        """A clause for the engine's summary."""
        return "compiled decode step" if self.description else f"no compiled decode step: {self.reason}"

    def on(self, storage: PagedStorage, positions: int, exact: bool = False) -> DecodeStep | None:
        """The step on the pages of ``storage`` for texts of so many positions. See ``DecodeStep`` for ``exact``."""
        step = import_optional("decode_step.step")
        if self.description is None:
            return None
        decode_step: DecodeStep = step.DecodeStep(self.description, storage, positions, exact=exact)
        return decode_step


def reference_logits(subject: Subject, *, shared: bool = False) -> list[Tensor] | None:
    """The logits of the model's own forward pass in float32; None if memory is short.

    Linear layers must be plain or quantised.

    Args:
        subject: The model. Its adapter acts on all texts but the second, which stands for other rows in a step.
        shared: See ``float32_weights``.
    """
    widened = widening_exactly(subject.model.modules())
    forward = partial(own_logits, subject, _texts(subject)[0])
    with float32_weights(subject.model, forward, shared=shared) as exact, widened:
        pairs = zip(_subjects(subject), _texts(subject), strict=False)
        return [own_logits(each, text).float() for each, text in pairs] if exact else None


def _quantised_logits(subject: Subject) -> list[Tensor] | None:
    """The ``reference_logits`` of a packed model with quantised layers; None without such layers."""
    quantised = any(isinstance(module, QuantisedLinear) for module in subject.model.modules())
    return reference_logits(subject) if quantised else None


def compile_step(subject: Subject, expected: list[Tensor] | None, *, verified: bool = False) -> CompiledStep:
    """Recognise a model whose layers are packed, without its adapters, and compare the step with it.

    Args:
        subject: The model.
        expected: Its ``reference_logits`` before it was packed. None takes those of quantised layers; without such
            layers, the packed model in its own precision is compared.
        verified: The structure was compared before, with other weights.
    """
    module = import_optional("decode_step.recognise")
    if subject.probe.device.type != "cpu":
        return CompiledStep(None, f"the model is on {subject.probe.device.type}")
    if module is None or import_optional("decode_step.step") is None:
        return CompiledStep(None, "numba is not installed")
    if subject.probe.dtype not in (torch.float32, torch.bfloat16):
        return CompiledStep(None, f"keys are {str(subject.probe.dtype)[6:]}")
    try:
        with keep_state(subject.model), keep_adapter_state(subject.model), only_adapter(subject.model, None):
            model: Any = base_model(subject.model)
            step = CompiledStep(module.recognise(model, subject.positions, subject.token_ids[-1]))
            fault = None if verified else find_fault(subject, step.on, expected)
    except module.NotRecognised as error:
        return CompiledStep(None, str(error))
    except Exception as error:
        return CompiledStep(None, f"{type(error).__name__} while it was tried")
    return step if fault is None else CompiledStep(None, f"its logits differ ({fault})")


def find_fault(subject: Subject, make_step: MakeStep, expected: list[Tensor] | None) -> str | None:
    """What differs first between a step and the model; None if nothing does. ``expected``: see ``compile_step``."""
    expected = expected or _quantised_logits(subject)
    for what, errors_R in _compare(subject, make_step, expected):
        exact = expected is not None or subject.probe.dtype is torch.float32
        error, limit = (errors_R.max(), TOLERANCE) if exact else (errors_R.median(), LOW_PRECISION_TOLERANCE)
        if len(errors_R) and not float(error) <= limit:
            return what
    return None


def _texts(subject: Subject) -> list[list[int]]:
    """A text, another one, and one that is longer than a window if there is one. An adapter does not change windows."""
    length, long = min(SHORT, subject.positions), tokens_past_window(subject) if subject.adapter is None else 0
    return subject.texts([length, min(OTHER_TOKENS, length)] + [long] * bool(long))


def _subjects(subject: Subject) -> tuple[Subject, Subject, Subject]:
    """Whose logits those of the texts are: the second text has no adapter."""
    return subject, replace(subject, adapter=None), subject


def _compare(subject: Subject, make_step: MakeStep, expected: list[Tensor] | None) -> Iterator[tuple[str, Tensor]]:
    """What was compared, and the relative error of each row's logits [R]."""
    texts = _texts(subject)
    exact = expected is not None
    dtype = torch.float32 if exact else subject.probe.dtype
    trial = subject.trial(dtype, 2 * sum(map(len, texts)), 8)
    pairs = [(text, each.adapter) for text, each in zip(texts, _subjects(subject), strict=False)]
    if expected is None:
        expected = [trial.run((trial.open(text, adapter), len(text)))[0] for text, adapter in pairs]
    text, beside, *past_window = (trial.open(ids, adapter) for ids, adapter in pairs)
    first = min(FIRST_ROWS, len(texts[0]) - 1)
    with trial.stepping(make_step(trial.storage, subject.positions, exact)):
        rows = trial.run((text, first), (beside, len(texts[1])))
        yield "several rows of two texts", relative_errors(rows, [expected[0][:first], expected[1]])
        single = [trial.run((text, 1))[0] for _ in texts[0][first:]]
        yield "decode steps", relative_errors(single, [expected[0][first:]])
        for sequence in past_window:
            logits = torch.cat([trial.run((sequence, 1))[0] for _ in texts[2]])[-LAST_ROWS:]
            yield "a text longer than a sliding window", relative_errors([logits], [expected[2][-LAST_ROWS:]])
