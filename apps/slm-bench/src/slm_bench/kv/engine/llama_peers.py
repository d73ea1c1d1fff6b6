"""llama.cpp's contenders on the weights of a model, one for each format, and how well each format predicts a text."""

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from slm_bench.errors import BenchError
from slm_bench.harness.comparison import Comparison, Figure, Row
from slm_bench.kv.engine.gguf_file import find_fault, write_gguf
from slm_bench.kv.engine.llama_process import LlamaCpp, start_llama
from slm_bench.kv.engine.workload import Tokens

LLAMA = "llama.cpp"
FORMATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # by the dtype of the engine
QUANTISED = ("Q8_0", "Q4_0")


@dataclass(frozen=True)
class LlamaFootprint:
    """What one format costs and how well it predicts the text; field names are JSON keys."""

    way: str
    perplexity: float
    megabytes: float  # resident, after the perplexity was measured
    seconds_to_start: float


def start_llama_peers(
    python: str | None, model: Any, settings: dict[str, Any], largest: tuple[int, int], stack: ExitStack
) -> tuple[list[LlamaCpp], dict[str, str]]:
    """Start llama.cpp on the model's weights in the engine's dtype, in 8 and in 4 bits.

    Returns the contenders, and why there are none.
    """
    if fault := _find_reason(python, model, settings):
        return [], {LLAMA: fault}
    assert python is not None
    folder = Path(stack.enter_context(TemporaryDirectory()))
    peers = []
    for format in (FORMATS[settings["dtype"]], *QUANTISED):
        print(f"starting llama.cpp on the weights in {format}", file=sys.stderr)
        path = folder / f"{format}.gguf"
        write_gguf(model, path, format)
        try:
            peers.append(stack.enter_context(closing(start_llama(python, path, settings["threads"], *largest))))
        except BenchError as error:
            return [], {LLAMA: str(error)}
    return peers, {}


def _find_reason(python: str | None, model: Any, settings: dict[str, Any]) -> str | None:
    """Return why llama.cpp is left out; None if it can take part."""
    if python is None:
        return "it is not installed; see --llama_python"
    if settings["adapter"]:
        return "it would ignore the adapter"
    if model.device.type != "cpu":
        return "it is compared on CPUs only"
    if find_spec("gguf") is None:
        return "the package gguf, which writes its files, is not installed; install it with pip install gguf"
    return find_fault(model)


def measure_footprints(peers: Sequence[LlamaCpp], text: Tokens) -> list[LlamaFootprint]:
    """Measure perplexity on ``text``, resident memory and time to start of each contender."""
    losses = [peer.loss(text) for peer in peers]
    return [
        LlamaFootprint(peer.name, math.exp(loss), peer.memory(), peer.seconds_to_start)
        for peer, loss in zip(peers, losses, strict=True)
    ]


@torch.inference_mode()
def perplexity(model: Any, text: Tokens) -> float:
    """Perplexity of the tokens of ``text`` after the first."""
    ids = torch.tensor([text], device=model.device)
    return math.exp(torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].float(), ids[0, 1:]).item())


def compare(footprints: Sequence[LlamaFootprint], own: float) -> Comparison:
    """Return the table of footprints; ``own`` is the perplexity of the model in the engine's dtype."""
    rows = [Row("transformers, the engine's dtype", {}, {"perplexity": f"{own:.3f}"})]
    for each in footprints:
        figures: dict[str, Figure] = {
            "perplexity": f"{each.perplexity:.3f}",
            "MB resident": each.megabytes,
            "s to start": each.seconds_to_start,
        }
        rows.append(Row(each.way, {}, figures))
    return Comparison("llama.cpp: perplexity, memory, start", tuple(rows))
