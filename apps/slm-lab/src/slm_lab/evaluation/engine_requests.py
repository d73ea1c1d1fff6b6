"""Many requests to an engine: scores of continuations and greedy texts, in an order that shares prefixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from slm_lab.errors import LabError
from slm_lab.evaluation.loading import OpenModel

if TYPE_CHECKING:
    from slm_kv import Handle, SamplingParams, TokenScore

Key = TypeVar("Key")

QUEUE = 4  # requests that are queued, in multiples of those that run


def score_pairs(model: OpenModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[TokenScore, ...]]:
    """Return the score of each token of the continuation, for each pair of a context and a continuation.

    Equal pairs are computed once. Pairs are computed in the order of their tokens, so that those with the same
    beginning come one after another and find its pages in the engine.

    Args:
        model: The model.
        pairs: Token ids, at least one of each part; together at most ``max_length + 1``.

    Raises:
        LabError: The model gave NaN.
    """
    keys = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
    scores: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[TokenScore, ...]] = {}

    def submit(key: tuple[tuple[int, ...], tuple[int, ...]]) -> Handle:
        return model.engine.submit_scoring(*key, adapter=model.adapter)

    for key, handle in _run(model, sorted(set(keys)), submit):
        scores[key] = tuple(handle.scores)
    return [scores[key] for key in keys]


def write_texts(model: OpenModel, prompts: Sequence[tuple[Sequence[int], SamplingParams]]) -> list[Handle]:
    """Return the finished handle of each prompt, in the same order.

    Raises:
        LabError: The model gave NaN.
    """
    handles: dict[int, Handle] = {}

    def submit(index: int) -> Handle:
        ids, params = prompts[index]
        return model.engine.submit(ids, params, adapter=model.adapter)

    order = sorted(range(len(prompts)), key=lambda index: tuple(prompts[index][0]))
    handles.update(_run(model, order, submit))
    return [handles[index] for index in range(len(prompts))]


def _run(model: OpenModel, keys: Iterable[Key], submit: Callable[[Key], Handle]) -> Iterable[tuple[Key, Handle]]:
    """Submit a request for each key, with a bounded queue, and yield those that have ended."""
    engine, waiting = model.engine, iter(keys)
    running: dict[Key, Handle] = {}
    while True:
        while len(running) < QUEUE * engine.max_sequences and (key := next(waiting, None)) is not None:
            running[key] = submit(key)
        if not running:
            return
        engine.step()
        for key, handle in [(key, handle) for key, handle in running.items() if handle.finished]:
            if handle.error is not None:
                raise LabError(f"{model.member.name}: {handle.error}")
            yield key, running.pop(key)
