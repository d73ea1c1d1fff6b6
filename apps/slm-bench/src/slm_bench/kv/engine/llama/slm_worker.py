"""slm-kv's engine in a separate process, with the requests and replies of ``llama_worker``.

Run as ``python -m slm_bench.kv.engine.llama.slm_worker MODEL DTYPE WEIGHTS THREADS MAX_TOKENS SEQUENCES``.
"""

import os
import sys
import time
from typing import Any

PAGE_SIZE = 16
SCORED_ROWS = 8  # computed in one step, so that the weights are used as in decoding


class SlmKv:
    """The engine on the model at ``path``, without a prefix cache: rounds repeat the same requests."""

    def __init__(self, path: str, dtype: str, weights: str, threads: int, max_tokens: int, sequences: int) -> None:
        import torch

        from slm_kv import create_engine, load, set_threads

        self._create: Any = create_engine
        loaded = load(path, None, dtype=getattr(torch, dtype), device="cpu")
        self._model, self._tokenizer, self._max_tokens = loaded.model, loaded.tokenizer, max_tokens
        set_threads(self._model, threads)
        self._weights = weights if weights in ("q8", "q4") else None
        self._engine = self._new_engine(sequences)

    def answer(self, prompts: list[list[int]], new: list[int]) -> dict[str, Any]:
        """Return the greedy continuation of each prompt, and the time of each token."""
        from slm_kv import SamplingParams

        start, engine = time.perf_counter(), self._engine
        handles = [
            engine.submit(prompt, SamplingParams(max_new_tokens=count, temperature=0, ignore_eos=True))
            for prompt, count in zip(prompts, new, strict=True)
        ]
        times: list[list[float]] = [[] for _ in handles]
        while engine.busy:
            engine.step()
            now = time.perf_counter() - start
            for handle, stamps in zip(handles, times, strict=True):
                stamps += [now] * (len(handle.token_ids) - len(stamps))
        _check(handles)
        return {"tokens": [handle.token_ids for handle in handles], "times": times}

    def score(self, rows: list[list[int]]) -> float:
        """Return the mean negative log-likelihood of the tokens after the first of each row, in nats."""
        from slm_kv import SamplingParams

        self._engine.close()
        self._engine = self._new_engine(1, max_step_tokens=SCORED_ROWS)
        params = SamplingParams(max_new_tokens=1, prompt_logprobs=0)
        handles = [self._engine.submit(row, params) for row in rows]
        while self._engine.busy:
            self._engine.step()
        _check(handles)
        losses = [-token.logprob for handle in handles for token in handle.prompt_logprobs]
        return float(sum(losses) / len(losses))

    def _new_engine(self, sequences: int, **options: int) -> Any:
        pages = sequences * (1 + -(-self._max_tokens // PAGE_SIZE))  # the scheduler keeps a page free for each
        return self._create(
            self._model,
            self._tokenizer,
            page_size=PAGE_SIZE,
            max_pages=pages,
            max_sequences=sequences,
            prefix_caching=False,
            weights=self._weights,
            speculate="off",  # drafts would foresee repetitions, as of random weights; llama.cpp has none here either
            **options,
        )


def _check(handles: list[Any]) -> None:
    for handle in handles:
        if handle.error:
            raise RuntimeError(f"Error: {handle.error}")


def main(path: str, dtype: str, weights: str, *limits: str) -> None:
    """Answer requests until standard input is closed."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import slm_kv
    from slm_bench.kv.engine.llama.llama_worker import serve

    serve(replies, slm_kv.__version__, SlmKv(path, dtype, weights, *map(int, limits)))


if __name__ == "__main__":
    main(*sys.argv[1:])
