"""Building a model's compiled decode step, and comparing its logits with those of the model called on the same pages.

Shapes: T tokens of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slm_kv.engine.verification.comparison import LAST_ROWS, Subject, relative_errors, tokens_past_window
from slm_kv.errors import KVError
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
TOKENS, FIRST_ROWS, OTHER_TOKENS = 14, 5, 4  # of a text, of its first step, and of a text beside it
FAR_POSITION = 2048  # at most: positions before it are computed


@dataclass(frozen=True)
class CompiledStep:
    """A model's compiled decode step, or the reason why there is none, as a clause."""

    description: ModelDescription | None
    reason: str = ""

    def summary(self, has_adapters: bool) -> str:
        """A clause for the engine's summary."""
        if self.description is None:
            return f"no compiled decode step: {self.reason}"
        return "compiled decode step" + (" without adapters" if has_adapters else "")

    def on(self, storage: PagedStorage, positions: int) -> DecodeStep | None:
        """The step on the pages of ``storage`` for texts of so many positions."""
        step = import_optional("decode_step.step")
        if self.description is None:
            return None
        decode_step: DecodeStep = step.DecodeStep(self.description, storage, positions)
        return decode_step


def compile_step(subject: Subject) -> CompiledStep:
    """Recognise a model whose layers are packed, without its adapters, and compare the step with it."""
    module = import_optional("decode_step.recognise")
    if subject.probe.device.type != "cpu":
        return CompiledStep(None, f"the model is on {subject.probe.device.type}")
    if module is None or import_optional("decode_step.step") is None:
        return CompiledStep(None, "numba is not installed")
    if subject.probe.dtype not in (torch.float32, torch.bfloat16):
        return CompiledStep(None, f"keys are {str(subject.probe.dtype)[6:]}")
    try:
        with keep_adapter_state(subject.model), only_adapter(subject.model, None):
            model: Any = base_model(subject.model)
            description = module.recognise(model, subject.positions, subject.token_ids[-1])
    except module.NotRecognised as error:
        return CompiledStep(None, str(error))
    except Exception as error:
        return CompiledStep(None, f"{type(error).__name__} while it was recognised")
    step = CompiledStep(description)
    fault = _fault(subject, step)
    return step if fault is None else CompiledStep(None, f"its logits differ ({fault})")


def _fault(subject: Subject, step: CompiledStep) -> str | None:
    """What differs first between the step and the model."""
    exact = subject.probe.dtype is torch.float32
    try:
        for what, errors_R in _compare(subject, step):
            if len(errors_R) and not (
                errors_R.max() <= TOLERANCE if exact else errors_R.median() <= LOW_PRECISION_TOLERANCE
            ):
                return what
    except KVError as error:
        return str(error)
    return None


def _compare(subject: Subject, step: CompiledStep) -> Iterator[tuple[str, Tensor]]:
    """What was compared, and the relative error of each row's logits [R]."""
    length, long = min(TOKENS, subject.positions), tokens_past_window(subject)
    lengths = [length, min(OTHER_TOKENS, length), 1] + [long] * bool(long)
    text, other, far, *past_window = subject.texts(lengths)
    first = min(FIRST_ROWS, length - 1)
    trial = subject.trial(subject.probe.dtype, 2 * sum(lengths), 8)
    compiled = step.on(trial.storage, subject.positions)
    own, stepped, beside, own_beside = (trial.open(ids, None) for ids in (text, text, other, other))
    expected, expected_beside = trial.run((own, length))[0], trial.run((own_beside, len(other)))[0]
    with trial.stepping(compiled):
        rows = trial.run((stepped, first), (beside, len(other)))
        yield "several rows of two texts", relative_errors(rows, [expected[:first], expected_beside])
        single = [trial.run((stepped, 1))[0] for _ in range(length - first)]
        yield "decode steps", relative_errors(single, [expected[first:]])
    position = min(subject.positions - 1, FAR_POSITION)
    alone, alone_stepped = (trial.open(far, None, position=position) for _ in range(2))
    expected = trial.run((alone, 1))[0]
    with trial.stepping(compiled):
        yield "a far position", relative_errors(trial.run((alone_stepped, 1)), [expected])
    if past_window:
        yield "a text longer than a sliding window", _errors_past_window(trial, compiled, past_window[0])


def _errors_past_window(trial: Any, compiled: DecodeStep | None, token_ids: list[int]) -> Tensor:
    own, stepped = (trial.open(token_ids, None, all_logits=False) for _ in range(2))
    head = len(token_ids) - LAST_ROWS
    trial.run((own, head), (stepped, head))
    expected = [trial.run((own, 1))[0] for _ in range(LAST_ROWS)]
    with trial.stepping(compiled):
        return relative_errors([trial.run((stepped, 1))[0] for _ in range(LAST_ROWS)], expected)
