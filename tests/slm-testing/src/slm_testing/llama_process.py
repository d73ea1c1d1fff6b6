"""What llama.cpp computes from a GGUF file, in a process of its own environment.

Its Python, with llama-cpp-python, is named by the environment variable ``SLM_LLAMA_PYTHON``. As a script this module
imports nothing of this project.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "SLM_LLAMA_PYTHON"
CONTEXT, BATCH = 512, 512


@dataclass(frozen=True)
class LlamaResult:
    """Logits of the prompt ``[tokens, vocabulary]``, the greedy tokens after it, and the tokens of texts."""

    logits: list[list[float]]
    new: list[int]
    texts: list[list[int]]
    losses: list[float]  # mean negative log-likelihood of each row of ids, in nats
    ends: list[int]  # tokens that end generation


def run_llama(
    file: Path,
    prompt: Sequence[int] = (),
    new: int = 0,
    texts: Sequence[str] = (),
    rows: Sequence[Sequence[int]] = (),
    lora: Path | None = None,
) -> LlamaResult:
    """Run llama.cpp on a file; the key-value cache is in f32."""
    request = {
        "prompt": list(prompt),
        "new": new,
        "texts": list(texts),
        "rows": [list(row) for row in rows],
        "lora": str(lora or ""),
    }
    process = subprocess.run(
        [os.environ[VARIABLE], __file__, str(file)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return LlamaResult(**json.loads(process.stdout))


class Worker:
    """A model in llama.cpp's C interface."""

    def __init__(self, library: Any, path: str, lora: str) -> None:
        import numpy

        self._library, self._numpy = library, numpy
        library.llama_backend_init()
        model_options = library.llama_model_default_params()
        model_options.use_extra_bufts = False  # AMX kernels, which stop with an illegal instruction on some machines
        self._model = library.llama_model_load_from_file(path.encode(), model_options)
        assert self._model, f"llama.cpp cannot load {path}"
        options = library.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = CONTEXT, BATCH, BATCH
        options.type_k = options.type_v = 0  # f32
        options.flash_attn_type = 0
        self._context = library.llama_init_from_model(self._model, options)
        self._vocabulary = library.llama_model_get_vocab(self._model)
        self.size = library.llama_vocab_n_tokens(self._vocabulary)
        self._batch = library.llama_batch_init(BATCH, 0, 1)
        if lora:
            adapter = library.llama_adapter_lora_init(self._model, lora.encode())
            assert adapter, f"llama.cpp cannot load {lora}"
            adapters = (library.llama_adapter_lora_p_ctypes * 1)(adapter)
            library.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0))

    def decode(self, ids: list[int], position: int) -> Any:
        """Return the logits ``[tokens, vocabulary]`` of tokens from ``position`` on."""
        batch = self._batch
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position + index, True
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
        assert self._library.llama_decode(self._context, batch) == 0
        view = self._numpy.ctypeslib.as_array
        rows = [self._library.llama_get_logits_ith(self._context, index) for index in range(len(ids))]
        return self._numpy.stack([view(row, shape=(self.size,)).copy() for row in rows])

    def clear(self) -> None:
        """Forget all tokens."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

    def greedy(self, prompt: list[int], new: int) -> tuple[Any, list[int]]:
        """Return the logits of a prompt and its greedy continuation."""
        logits = self.decode(prompt, 0)
        tokens, row = [], logits[-1]
        for position in range(len(prompt), len(prompt) + new):
            tokens.append(int(row.argmax()))
            row = self.decode(tokens[-1:], position)[0]
        return logits, tokens

    def loss(self, ids: list[int]) -> float:
        """Return the mean negative log-likelihood of the tokens after the first."""
        self.clear()
        logits = self.decode(ids[:-1], 0).astype(self._numpy.float64)
        top = logits.max(-1, keepdims=True)
        log_sums = (top[:, 0] + self._numpy.log(self._numpy.exp(logits - top).sum(-1))).tolist()
        return sum(
            total - float(row[target]) for total, row, target in zip(log_sums, logits, ids[1:], strict=True)
        ) / len(log_sums)

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text, special tokens in it included."""
        data = text.encode()
        size = len(data) + 16
        buffer = (self._library.llama_token * size)()
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), buffer, size, True, True)
        return list(buffer[:count])

    def ends(self) -> list[int]:
        """Return the tokens that end generation."""
        return [token for token in range(self.size) if self._library.llama_vocab_is_eog(self._vocabulary, token)]


def main(path: str) -> None:
    """Answer the request on standard input."""
    import llama_cpp

    request = json.load(sys.stdin)
    worker = Worker(llama_cpp, path, request["lora"])
    logits, new = worker.greedy(request["prompt"], request["new"]) if request["prompt"] else (None, [])
    result = {
        "logits": [] if logits is None else logits.tolist(),
        "new": new,
        "texts": [worker.tokenize(text) for text in request["texts"]],
        "losses": [worker.loss(row) for row in request["rows"]],
        "ends": worker.ends(),
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
