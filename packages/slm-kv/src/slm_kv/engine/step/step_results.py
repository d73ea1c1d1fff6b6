"""What the host needs of a step's results, fetched from the device for all requests together.

Shapes: R rows of one item of work, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from slm_kv.engine.scheduler import Work
from slm_kv.sampling.device_sampling import sample_rows

Item = tuple[Work, Tensor]  # and its logits [R, V]


@dataclass(frozen=True)
class StepResult:
    """The result of one item of work.

    Attributes:
        logits_RV: Its logits: on the host, if tokens are sampled there.
        tokens: The tokens sampled on the device from the rows of the last known token and the draft, or INVALID; empty
            if none were.
    """

    logits_RV: Tensor
    tokens: tuple[int, ...] = ()


def unfetched(items: Sequence[Item]) -> list[tuple[Work, StepResult]]:
    """The results on a CPU, where numpy samples faster than torch."""
    return [(work, StepResult(logits_RV)) for work, logits_RV in items]


def fetch(items: Sequence[Item]) -> list[tuple[Work, StepResult]]:
    """Sample on the device where logits and settings suffice, and copy the other requests' logits to the host.

    Each is one copy for all requests, for which the host waits.
    """
    plain = [(work, logits_RV) for work, logits_RV in items if _is_plain(work)]
    others = [(work, logits_RV) for work, logits_RV in items if not _is_plain(work)]
    return [*_sample(plain), *_copy_to_host(others)]


def _is_plain(work: Work) -> bool:
    return work.samples and not work.sequence.needs_prompt_logits and work.sequence.sampler.is_plain


def _sample(items: Sequence[Item]) -> list[tuple[Work, StepResult]]:
    if not items:
        return []
    counts = [1 + len(work.draft) for work, _ in items]
    logits_RV = torch.cat([logits_RV[-count:] for (_, logits_RV), count in zip(items, counts, strict=True)])
    rows = [row for work, _ in items for row in work.sequence.sampler.next_rows(1 + len(work.draft))]
    try:
        tokens = iter(sample_rows(logits_RV, rows).tolist())
    except torch.OutOfMemoryError:  # the host samples one row at a time
        return _copy_to_host(items)
    return [
        (work, StepResult(logits_RV, tuple(islice(tokens, count))))
        for (work, logits_RV), count in zip(items, counts, strict=True)
    ]


def _copy_to_host(items: Sequence[Item]) -> list[tuple[Work, StepResult]]:
    if not items:
        return []
    logits = torch.cat([logits_RV for _, logits_RV in items]).cpu().split([len(logits_RV) for _, logits_RV in items])
    return [(work, StepResult(logits_RV)) for (work, _), logits_RV in zip(items, logits, strict=True)]
