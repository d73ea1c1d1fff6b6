"""llama.cpp in a separate process and environment: one line of JSON per request and reply.

Run as ``python llama_worker.py FILE.gguf THREADS MAX_TOKENS SEQUENCES [without_repacking]``. It imports nothing of
this project. A request is ``{"prompts": [[ids], ...], "new": [counts]}``, its reply ``{"tokens": [[ids], ...],
"times": [[seconds], ...]}``; or ``{"score": [[ids], ...]}``, with the reply ``{"loss": mean negative log-likelihood}``.
The first line that it writes is ``{"version": ...}``, once the model is loaded. llama.cpp's own output goes to
standard error.
"""

import json
import os
import sys
import time
from typing import Any

BATCH = 512
WITHOUT_REPACKING = "without_repacking"


class Llama:
    """Greedy decoding of many sequences at once through llama.cpp's C interface, all in one batch a step."""

    def __init__(self, library: Any, path: str, threads: int, max_tokens: int, sequences: int, repack: bool) -> None:
        import numpy

        self._library, self._numpy, self._sequences = library, numpy, sequences
        library.llama_backend_init()
        model_options = library.llama_model_default_params()
        model_options.use_extra_bufts = repack
        self._model = library.llama_model_load_from_file(path.encode(), model_options)
        if not self._model:
            raise RuntimeError(f"Error: llama.cpp cannot load {path}")
        options = library.llama_context_default_params()
        options.n_ctx = sequences * -(-max_tokens // 256) * 256  # llama.cpp rounds each sequence's share up to 256
        options.n_batch = options.n_ubatch = BATCH
        options.n_seq_max = sequences
        options.n_threads = options.n_threads_batch = threads
        self._context = library.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError("Error: llama.cpp cannot create a context")
        self._vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model))
        self._batch = library.llama_batch_init(BATCH, 0, 1)

    def answer(self, prompts: list[list[int]], new: list[int]) -> dict[str, Any]:
        """Return the greedy continuation of each prompt, and the time of each token."""
        if len(prompts) > self._sequences:
            raise RuntimeError(f"Error: {len(prompts)} requests for {self._sequences} sequences")
        self._clear()
        self._start = time.perf_counter()
        self._tokens: list[list[int]] = [[] for _ in prompts]
        self._times: list[list[float]] = [[] for _ in prompts]
        rows = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for first in range(0, len(rows), BATCH):
            self._step(rows[first : first + BATCH])
        while rows := [
            (tokens[-1], len(prompts[sequence]) + len(tokens) - 1, sequence, True)
            for sequence, tokens in enumerate(self._tokens)
            if len(tokens) < new[sequence]
        ]:
            self._step(rows)
        return {"tokens": self._tokens, "times": self._times}

    def score(self, rows: list[list[int]]) -> float:
        """Return the mean negative log-likelihood of the tokens after the first of each row, in nats."""
        losses = [loss for row in rows for loss in self._losses(row)]
        return sum(losses) / len(losses)

    def _losses(self, ids: list[int]) -> list[float]:
        numpy, losses = self._numpy, []
        self._clear()
        for first in range(0, len(ids) - 1, BATCH):
            inputs = ids[first : min(first + BATCH, len(ids) - 1)]
            logits = self._decode([(token, first + index, 0, True) for index, token in enumerate(inputs)])
            for row, target in zip(logits, ids[first + 1 :], strict=False):
                top = row.max()
                losses.append(float(top + numpy.log(numpy.exp(row - top).sum()) - row[target]))
        return losses

    def _step(self, rows: list[tuple[int, int, int, bool]]) -> None:
        logits = self._decode(rows)
        wanted = [sequence for _, _, sequence, is_wanted in rows if is_wanted]
        for row, sequence in zip(logits, wanted, strict=True):
            self._tokens[sequence].append(int(row.argmax()))
            self._times[sequence].append(time.perf_counter() - self._start)

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> list[Any]:
        """Run a batch of (token, position, sequence, wanted); return the logits of the rows that are wanted."""
        batch, library = self._batch, self._library
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
        if code := library.llama_decode(self._context, batch):
            raise RuntimeError(f"Error: llama_decode returned {code}")
        view = self._numpy.ctypeslib.as_array
        return [
            view(library.llama_get_logits_ith(self._context, index), shape=(self._vocabulary,))
            for index, row in enumerate(rows)
            if row[3]
        ]

    def _clear(self) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)


def main(path: str, threads: str, max_tokens: str, sequences: str, *more: str) -> None:
    """Answer requests until standard input is closed."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp prints to standard output, which carries the replies
    import llama_cpp

    llama = Llama(llama_cpp, path, int(threads), int(max_tokens), int(sequences), WITHOUT_REPACKING not in more)
    serve(replies, llama_cpp.__version__, llama)


def serve(replies: Any, version: str, program: Any) -> None:
    """Report the version, then call ``answer`` and ``score`` of ``program`` for each request on standard input."""
    _reply(replies, {"version": version})
    for line in sys.stdin:
        request = json.loads(line)
        if "score" in request:
            _reply(replies, {"loss": program.score(request["score"])})
        else:
            _reply(replies, program.answer(request["prompts"], request["new"]))


def _reply(replies: Any, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=replies, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
