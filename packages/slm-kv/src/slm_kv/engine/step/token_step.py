"""Sampling the tokens of a step for one sequence: one token, or several that confirm a draft.

Shapes: V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from slm_kv.engine.requests import FinishReason, Update
from slm_kv.engine.scheduler import Scheduler, Work
from slm_kv.engine.scoring import ScoringSequence
from slm_kv.engine.sequence import Sequence
from slm_kv.engine.step.step_results import StepResult
from slm_kv.sampling.logprobs import SampledToken


def sample_tokens(work: Work, result: StepResult, scheduler: Scheduler, updates: list[Update]) -> FinishReason | None:
    """Sample the next token, and further ones as long as the draft continues with the token sampled last.

    The known tokens of ``work`` are in the sequence's pages; those of its draft become so as they are sampled.

    Args:
        work: The rows that were computed.
        result: Their logits.
        scheduler: That of the sequence.
        updates: Gets one update with all tokens, also if a later one fails.

    Returns:
        The reason if the sequence ends.

    Raises:
        InvalidLogits, GrammarError: a token cannot be sampled. Those before it are in the update.
    """
    sequence, first = work.sequence, len(work.sequence.token_ids)
    if isinstance(sequence, ScoringSequence):  # its scores are complete, and have no NaN
        scheduler.pool.commit(sequence.block_table, (), verified=True)
        scheduler.end_draft(work, 0)
        updates.append(Update(sequence.handle, "", (), True))
        return "stop"
    rows = 1 + len(work.draft)
    tokens: tuple[SampledToken | None, ...] = result.tokens or (None,) * rows
    text, reason = "", None
    try:
        for row, (logits_V, chosen) in enumerate(zip(result.logits_RV[-rows:], tokens, strict=True)):
            if row:  # the last token was sampled as it had been drafted
                scheduler.pool.commit(sequence.block_table, work.draft[row - 1 : row], verified=False)
            new_text, reason = _sample_token(sequence, logits_V, chosen, scheduler)
            text += new_text
            if reason or work.draft[row : row + 1] != (sequence.token_ids[-1],):
                break
    finally:
        scheduler.end_draft(work, len(sequence.token_ids) - first)
        if sampled := tuple(sequence.token_ids[first:]):
            updates.append(Update(sequence.handle, text, sampled, reason is not None))
    return reason


def _sample_token(
    sequence: Sequence, logits_V: Tensor, chosen: SampledToken | None, scheduler: Scheduler
) -> tuple[str, FinishReason | None]:
    # Where no token could be sampled on the device, ``sample`` says why.
    token = sequence.sampler.sample(logits_V) if chosen is None else sequence.sampler.take(chosen)
    if sequence.handle.use_cache:
        # A NaN in any other key or value would have made these logits NaN, which ``sample`` refuses.
        scheduler.pool.commit(sequence.block_table, (), verified=True)
    else:
        scheduler.discard_pages(sequence)
    text, reason = sequence.append(token)
    sequence.handle.text += text
    return text, reason
