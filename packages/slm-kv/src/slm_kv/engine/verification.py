"""Comparing a model's logits on pages with those of its own forward pass, before the engine serves it.

That a model uses transformers' attention interface in every layer does not prove that pages hold all it needs: it may
keep a state beside attention, share keys between layers, or scale rotary positions by the longest text of a batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from collections.abc import Sequence as Ids
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from slm_kv.attention.probe import AttentionProbe, refuse
from slm_kv.engine.adapters import Adapters
from slm_kv.engine.comparison import Subject, compare, relative_errors
from slm_kv.engine.context_limits import ContextLimits
from slm_kv.engine.model_state import float32_weights, keep_state
from slm_kv.engine.prepared_models import PreparedModels
from slm_kv.errors import REMEDY, KVError, UnsupportedModel
from slm_kv.peft_models import keep_adapter_state, names_of_each_method

# The largest relative error of a row in float32: at most 1.7e-6 in 40 right architectures, 2.8e-2 in a wrong one.
TOLERANCE = 1e-4
# In lower precision, that of the median row, because a router that is rounded to another expert changes single rows. Of
# right architectures in bfloat16 the largest median was 2.1e-2 and the largest error 0.13.
LOW_PRECISION_TOLERANCE = 0.1
NEIGHBOUR_TOKENS = 6  # of the text whose independence of its neighbours is tried


def verify(
    prepared: PreparedModels,
    adapters: Adapters,
    probe: AttentionProbe,
    token_ids: Ids[int],
    limits: ContextLimits,
) -> int:
    """Compare each model's logits on pages with those of its own attention, with an adapter of each method.

    Args:
        prepared: The models, with paged attention.
        adapters: The models with their adapters.
        probe: What their layers require.
        token_ids: Ordinary tokens to make texts of.
        limits: The size of a page, and the number of positions that a text can have.

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
                    _check_logits(subject)
                    positions = min(positions, _independent_positions(subject))
    return positions


def _check_logits(subject: Subject) -> None:
    dtype = subject.probe.dtype
    if dtype is not torch.float32:
        with float32_weights(subject.model) as exact:
            if exact:
                _refuse_errors(subject, torch.float32)
    _refuse_errors(subject, dtype)


def _refuse_errors(subject: Subject, dtype: torch.dtype) -> None:
    for what, errors_R in compare(subject, dtype):
        if not tolerable(errors_R, dtype):
            refuse(f"{subject.name} gives other logits on pages ({what})")


def tolerable(errors_R: Tensor, dtype: torch.dtype) -> bool:
    """Whether errors of rows can be due to rounding."""
    if not len(errors_R):
        return True
    if dtype is torch.float32:
        return float(errors_R.max()) <= TOLERANCE
    return float(errors_R.median()) <= LOW_PRECISION_TOLERANCE


def _independent_positions(subject: Subject) -> int:
    """The largest context in which no text's logits depend on the positions of the others in its step."""
    scaled = sorted(set(_original_positions(subject.model.config.get_text_config().to_dict())))
    for limit in [subject.positions, *(number for number in reversed(scaled) if number < subject.positions)]:
        with float32_weights(subject.model) as exact:
            dtype = torch.float32 if exact else subject.probe.dtype
            starts = {0, *(max(0, number - NEIGHBOUR_TOKENS) for number in scaled if number <= limit)}
            if all(_is_independent(subject, dtype, start, limit) for start in starts):
                return limit
    refuse(f"{subject.name} computes a text differently beside a longer one (rotary scaling)")


def _is_independent(subject: Subject, dtype: torch.dtype, start: int, limit: int) -> bool:
    """Whether a text from position ``start`` on has the same logits beside a token at the last position, and after it.

    Only the position matters, not the text before it, so that it can be made up.
    """
    if limit <= start:
        return True
    text, (token,) = subject.texts([min(NEIGHBOUR_TOKENS, limit - start), 1])
    logits = []
    for neighbour in (0, limit - 1, 0):
        trial = subject.trial(dtype, len(text) + 1, 2)
        rows = (
            trial.open(text, subject.adapter, position=start),
            trial.open([token], subject.adapter, position=neighbour),
        )
        logits.append(trial.run((rows[0], len(text)), (rows[1], 1))[0])
    return all(tolerable(relative_errors([other], logits[:1]), dtype) for other in logits[1:])


def _original_positions(config: Any) -> Iterator[int]:
    """The context lengths before rotary scaling, wherever the config has them."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "original_max_position_embeddings" and isinstance(value, int):
                yield value
            yield from _original_positions(value)


@contextmanager
def _as_refusals(subject: Subject) -> Generator[None]:
    """Turn errors of the model into an UnsupportedModel that names it."""
    try:
        yield
    except KVError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UnsupportedModel(f"{subject.name} cannot be run on pages ({reason}){REMEDY}") from error
