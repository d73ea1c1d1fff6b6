"""Models whose layers were packed before an engine gets them, as those of a GGUF file are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slm_kv import Engine, KVError, TransformersEngine, pack
from slm_kv.linear.quantised_selection import QuantisedFormat
from slm_testing.kv.tiny_models import greedy_params, make_model, random_prompts, run_to_end

PROMPT = random_prompts(1, seed=4)[0]


def tokens(model: Any, **options: Any) -> list[int]:
    with Engine(model, page_size=4, max_pages=40, **options) as engine:
        handle = engine.submit(PROMPT, greedy_params(9))
        run_to_end(engine)
    assert handle.error is None
    return handle.token_ids


@pytest.mark.parametrize("weights", [None, "q8", "q4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "tied_llama"])  # heads are tied, and llama's down_proj cannot be quantised
def test_the_engine_runs_the_packed_layers(name: str, dtype: torch.dtype, weights: QuantisedFormat | None) -> None:
    model = make_model(name).to(dtype)
    packed = pack(model, weights=weights)
    layers = set(packed.layers)
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPT])).logits[0, -1].float()
    text = tokens(model)
    assert logits.max() - logits[text[0]] < 0.1 * logits.std()  # the likeliest token, or rounding took another one
    assert text == tokens(model, packed=False)
    assert set(packed.layers) == layers  # the engine did not unpack them


@pytest.mark.parametrize("engine_type", [Engine, TransformersEngine])
def test_no_adapter_can_be_added(engine_type: type[Engine] | type[TransformersEngine]) -> None:
    model = make_model("tied_llama")
    pack(model)
    with engine_type(model) as engine, pytest.raises(KVError, match="packed before the engine was made"):
        engine.copy_base()
