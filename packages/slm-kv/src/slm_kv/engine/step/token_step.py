"""Taking the results of a step for one sequence: its pages are committed, and its next tokens sampled and decoded.

Shapes: R rows of the sequence, D dimensions of a hidden state, V vocabulary.
"""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from slm_kv.engine.embeddings import EmbeddingSequence
from slm_kv.engine.requests import FinishReason, Update
from slm_kv.engine.scheduler import Scheduler, Work
from slm_kv.engine.scoring import ScoringSequence
from slm_kv.engine.sequence import Sequence
from slm_kv.engine.step.step_results import StepResult
from slm_kv.sampling.logprobs import SampledToken


def take_result(work: Work, result: StepResult, scheduler: Scheduler, updates: list[Update]) -> FinishReason | None:
    """Commit the known tokens of ``work``, and sample.

    A single token is not decoded: that is left to ``decode_token``, after which the sequence may have ended. If the
    token ends it in any case, the scheduler loses it now.

    Args:
        work: The rows that were computed.
        result: Their result.
        scheduler: That of the sequence.
        updates: Gets the update of a sequence that ends now, or that had a draft.

    Returns:
        The reason if the sequence ends now.

    Raises:
        InvalidLogits, GrammarError: the model gave NaN, or a token cannot be sampled.
    """
    sequence, known = work.sequence, work.count - len(work.draft)
    result.check_keys()
    verified = work.checks_keys and sequence.handle.use_cache
    scheduler.pool.commit(sequence.block_table, sequence.next_ids(known), verified=verified)
    if result.prompt_numbers is not None:
        sequence.add_prompt_numbers(result.prompt_numbers)
    elif sequence.needs_prompt_logits:
        sequence.add_prompt_logprobs(result.logits_RV)
    if not work.samples:
        return None
    if isinstance(sequence, ScoringSequence):  # its scores are complete, and have no NaN
        scheduler.pool.commit(sequence.block_table, (), verified=True)
        updates.append(Update(sequence.handle, "", (), True))
        return "stop"
    if work.draft:
        return _sample_draft(work, result, scheduler, updates)
    _sample(sequence, result.logits_RV[-1], result.tokens[0] if result.tokens else None, scheduler)
    scheduler.end_draft(work, 1)
    if sequence.ends_by_tokens:
        scheduler.remove(sequence)
    return None


def take_failure(work: Work, error: Exception, scheduler: Scheduler, updates: list[Update]) -> NoReturn:
    """Raise the error with which the model failed for ``work``."""
    raise error


def take_hidden(work: Work, hidden_RD: Tensor, scheduler: Scheduler, updates: list[Update]) -> FinishReason | None:
    """Add hidden states to an embedding; the arguments and the result are those of ``take_result``.

    Raises:
        InvalidLogits: a hidden state is not finite.
    """
    sequence = work.sequence
    assert isinstance(sequence, EmbeddingSequence)
    scheduler.pool.commit(sequence.block_table, sequence.next_ids(work.count), verified=False)
    sequence.add_hidden_states(hidden_RD)
    if not work.samples:  # more tokens follow
        return None
    sequence.finish()
    updates.append(Update(sequence.handle, "", (), True))
    return "stop"


def decode_token(sequence: Sequence, updates: list[Update]) -> FinishReason | None:
    """Decode the token that was sampled last, and return the reason if the sequence ends."""
    text, reason = "", None
    try:
        text, reason = sequence.decode()
    finally:
        updates.append(Update(sequence.handle, text, tuple(sequence.token_ids[-1:]), reason is not None))
    return reason


def _sample_draft(work: Work, result: StepResult, scheduler: Scheduler, updates: list[Update]) -> FinishReason | None:
    """Sample the next token, and further ones as long as the draft continues with the token sampled last.

    The tokens of the draft are committed as they are sampled. Texts are decoded at once: a stop string ends the
    sequence before the tokens that follow. There is one update with all tokens, also if a later one fails.
    """
    sequence, first = work.sequence, len(work.sequence.token_ids)
    rows = 1 + len(work.draft)
    tokens: tuple[SampledToken | None, ...] = result.tokens or (None,) * rows
    text, reason = "", None
    try:
        for row, (logits_V, chosen) in enumerate(zip(result.logits_RV[-rows:], tokens, strict=True)):
            if row:  # the last token was sampled as it had been drafted
                scheduler.pool.commit(sequence.block_table, work.draft[row - 1 : row], verified=False)
            _sample(sequence, logits_V, chosen, scheduler)
            new_text, reason = sequence.decode()
            text += new_text
            if reason or work.draft[row : row + 1] != (sequence.token_ids[-1],):
                break
    finally:
        scheduler.end_draft(work, len(sequence.token_ids) - first)
        if sampled := tuple(sequence.token_ids[first:]):
            updates.append(Update(sequence.handle, text, sampled, reason is not None))
    return reason


def _sample(sequence: Sequence, logits_V: Tensor, chosen: SampledToken | None, scheduler: Scheduler) -> None:
    # Where no token could be sampled on the device, ``sample`` says why.
    token = sequence.sampler.sample(logits_V) if chosen is None else sequence.sampler.take(chosen)
    if sequence.handle.use_cache:
        # A NaN in any other key or value would have made these logits NaN, which ``sample`` refuses.
        scheduler.pool.commit(sequence.block_table, (), verified=True)
    else:
        scheduler.discard_pages(sequence)
    sequence.append(token)
