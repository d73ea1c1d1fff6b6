"""Merging and serving on an emulated device without float64. A module for ``forked``.

without_float64 merge RUN
without_float64 serve RUN
"""

from __future__ import annotations

import sys
from typing import Any

from slm_adapters import load
from slm_kv import Engine, SamplingParams
from slm_testing.emulated_device import NAME, emulated_device

SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 1},
    {"temperature": 0.8, "seed": 2, "repetition_penalty": 1.3, "logprobs": 2},
]


def on_device(model: Any) -> Any:
    """Return ``model``, loaded on the CPU and moved: safetensors does not know the emulated device."""
    return model.to(NAME)


def merge_on_device(folder: str) -> int:
    adapted = on_device(load(folder, device="cpu").model)
    # Values are not compared: an assignment to ``.data``, as merging does, does not reach the emulated values.
    assert {values.device.type for values in adapted.merge_and_unload().parameters()} == {NAME}
    return 0


def serve_on_device(folder: str) -> int:
    texts = []
    for device in (NAME, "cpu"):
        loaded = load(folder, merge=True, device="cpu")
        model = loaded.model if device == "cpu" else on_device(loaded.model)
        with Engine(model, loaded.tokenizer, page_size=4, max_pages=64) as engine:
            handles = [engine.submit("One day", SamplingParams(max_new_tokens=6, **settings)) for settings in SAMPLING]
            while any(handle.finish_reason is None for handle in handles):
                engine.step()
        texts.append([handle.token_ids for handle in handles])
    assert texts[0] == texts[1], texts
    return 0


def main() -> int:
    part, folder = sys.argv[1:]
    with emulated_device():
        return {"merge": merge_on_device, "serve": serve_on_device}[part](folder)
