"""Comparing a model's logits on pages with those of its own forward pass, before the engine serves it.

That a model uses transformers' attention interface in every layer does not prove that pages hold all it needs: it may
keep a state beside attention, share keys between layers, or scale rotary positions by the longest text of a batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from collections.abc import Sequence as Ids
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from slm_kv.attention.probe import AttentionProbe, refuse
from slm_kv.engine.adapters import Adapters
from slm_kv.engine.context_limits import ContextLimits
from slm_kv.engine.prepared_models import PreparedModels
from slm_kv.engine.verification.comparison import SHORT, Subject, compare, own_logits, relative_errors
from slm_kv.engine.verification.float32_weights import float32_weights
from slm_kv.engine.verification.model_state import keep_state, return_freed_memory
from slm_kv.errors import REMEDY, KVError, UnsupportedModel
from slm_kv.linear.quantised_linear import widening_exactly
from slm_kv.peft_models import keep_adapter_state, names_of_each_method

# The largest relative error of a row in float32: at most 1.7e-6 in 40 right architectures, 2.8e-2 in a wrong one.
TOLERANCE = 1e-4
# In lower precision, that of the median row, because a router that is rounded to another expert changes single rows. Of
# right architectures in bfloat16 the largest median was 2.1e-2 and the largest error 0.13.
LOW_PRECISION_TOLERANCE = 0.1
LOW_PRECISION_STEPS = 4  # of the comparison; the rest was compared in float32
NEIGHBOUR_TOKENS = 6  # of the text whose independence of its neighbours is tried


def verify(
    prepared: PreparedModels,
    adapters: Adapters,
    probe: AttentionProbe,
    token_ids: Ids[int],
    limits: ContextLimits,
    *,
    shared: bool = False,
) -> int:
    """Compare each model's logits on pages with those of its own attention, with an adapter of each method.

    Args:
        prepared: The models, with paged attention.
        adapters: The models with their adapters.
        probe: What their layers require.
        token_ids: Ordinary tokens to make texts of.
        limits: The size of a page, and the number of positions that a text can have.
        shared: Whether other models that may run meanwhile share the weights.

    Returns:
        The number of positions within which a text does not depend on its neighbours in a batch.

    Raises:
        UnsupportedModel: the logits differ.
    """
    positions = limits.positions
    for model in prepared.models:
        with keep_state(model), keep_adapter_state(model):
            for adapter in names_of_each_method(model):
                subject = Subject(
                    prepared, model, adapters, adapter, probe, token_ids, limits.page_size, limits.positions
                )
                with _as_refusals(subject):
                    positions = min(positions, _check(subject, shared))
    return positions


def _check(subject: Subject, shared: bool) -> int:
    """Refuse the model if its logits differ; return the number of positions in which texts are independent."""
    forward = partial(own_logits, subject, subject.texts([min(SHORT, subject.positions)])[0])
    with float32_weights(subject.model, forward, shared=shared) as exact:
        dtype = torch.float32 if exact else subject.probe.dtype
        with widening_exactly(subject.model.modules(), float32_rows=exact):
            positions = _check_logits(subject, dtype)
    return_freed_memory()
    if dtype is not subject.probe.dtype:  # that the model runs on pages of its own dtype, too
        for what, errors_R in islice(compare(subject, subject.probe.dtype), LOW_PRECISION_STEPS):
            _refuse_if(not tolerable(errors_R, subject.probe.dtype), subject, what)
    return positions


def _check_logits(subject: Subject, dtype: torch.dtype) -> int:
    neighbour, scaled = subject.positions - 1, _original_positions(subject)
    fault = _fault(subject, dtype, neighbour)
    if fault is not None:
        _refuse_if(not scaled or _fault(subject, dtype, 0) is not None, subject, fault)
    elif all(_is_independent(subject, dtype, number, subject.positions) for number in scaled):
        return subject.positions
    for limit in scaled:
        if _fault(subject, dtype, limit - 1) is None:
            return limit
    raise UnsupportedModel(f"{subject.name} computes a text differently beside a longer one (rotary scaling){REMEDY}")


def _fault(subject: Subject, dtype: torch.dtype, neighbour: int) -> str | None:
    """What differs first between the model on pages and its own forward pass, beside a token at ``neighbour``."""
    errors = compare(subject, dtype, neighbour=neighbour)
    return next((what for what, errors_R in errors if not tolerable(errors_R, dtype)), None)


def _refuse_if(differs: bool, subject: Subject, what: str) -> None:
    if differs:
        refuse(f"{subject.name} gives other logits on pages ({what})")


def tolerable(errors_R: Tensor, dtype: torch.dtype) -> bool:
    """Whether errors of rows can be due to rounding."""
    if not len(errors_R):
        return True
    if dtype is torch.float32:
        return float(errors_R.max()) <= TOLERANCE
    return float(errors_R.median()) <= LOW_PRECISION_TOLERANCE


def _is_independent(subject: Subject, dtype: torch.dtype, end: int, limit: int) -> bool:
    """Whether a text that ends at position ``end`` has the same logits beside a token at the last position.

    Only the positions matter, not the text before them, so that it can be left out.
    """
    text, (token,) = subject.texts([min(NEIGHBOUR_TOKENS, end), 1])
    logits = []
    for neighbour in (0, limit - 1):
        trial = subject.trial(dtype, len(text) + 1, 2)
        sequence = trial.open(text, subject.adapter, position=end - len(text))
        logits += trial.run((sequence, len(text)), (trial.open([token], subject.adapter, position=neighbour), 1))[:1]
    return tolerable(relative_errors(logits[1:], logits[:1]), dtype)


def _original_positions(subject: Subject) -> list[int]:
    """The context lengths before rotary scaling, wherever the config has them, the longest first."""
    numbers = set(_named_numbers(subject.model.config.get_text_config().to_dict(), "original_max_position_embeddings"))
    return sorted((number for number in numbers if 1 < number < subject.positions), reverse=True)


def _named_numbers(config: Any, name: str) -> Iterator[int]:
    if isinstance(config, dict):
        for key, value in config.items():
            if key == name and isinstance(value, int | float):
                yield int(value)
            yield from _named_numbers(value, name)


@contextmanager
def _as_refusals(subject: Subject) -> Generator[None]:
    """Turn errors of the model into one that names it."""
    try:
        yield
    except KVError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UnsupportedModel(f"{subject.name} cannot be run on pages ({reason}){REMEDY}") from error
