"""Quantised weights are used only if the perplexity allows it. A refused model is restored to the bit."""

import copy
import math
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slm_kv import Engine, KVError, load
from slm_kv.linear.gate_text import built_in_text
from slm_kv.linear.quantisation_gate import (
    MAX_RISES,
    MIN_TOKENS,
    mean_nats,
    pack_quantised,
    perplexity_rise,
    split_rows,
)
from slm_kv.linear.quantised_linear import QuantisedLinear, rounding_inputs
from slm_kv.loading import Loaded
from slm_kv.paged import main
from slm_testing.kv.lora_model import make_lora_model
from slm_testing.kv.tiny_models import POSITIONS, greedy_params, greedy_tokens, make_model, run_to_end

IDS = [5, 11, 3] * 400


@pytest.fixture(scope="module")
def text() -> str:
    slm_data = pytest.importorskip("slm_data")
    return "\n".join(slm_data.harbour_stories(12, seed=2))


@pytest.fixture(scope="module")
def base() -> Iterator[Loaded]:
    pytest.importorskip("slm_adapters")
    return load("sample", dtype=torch.float32, device="cpu")


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def sensitive_model() -> tuple[nn.Module, list[int]]:
    """A model that 8 bits ruin, and text that it generated.

    Each group of 32 inputs of its head has an outlier: the same in all rows, so that softmax cancels it, but so large
    that nothing else survives rounding.
    """
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight[:, ::32] = 60
    rows = [[first, *greedy_tokens(model, [first], POSITIONS - 1)] for first in range(1, 18)]
    return model, [token for row in rows for token in row]


def test_the_built_in_base_is_accepted_in_8_bits_whose_values_remain(base: Loaded, text: str) -> None:
    """The plain weights are freed while the engine runs."""
    model, tokenizer = copy.deepcopy(base.model), base.tokenizer
    before, freed = weights(model), weakref.ref(model.get_output_embeddings().weight)
    prompts = ["Once upon a time", "Tom had a red ball. He", "The sea was", "One day, a dog"]
    with Engine(model, tokenizer, weights="q8", gate_text=text) as engine:
        assert engine.quantised is not None
        assert -0.005 < engine.quantised.rise <= MAX_RISES["q8"]
        assert engine.quantised.tokens > MIN_TOKENS
        assert "25 linear layers prepacked in q8" in engine.summary
        assert all(handle.error is None for handle in engine.generate(prompts, greedy_params(24)))
        assert freed() is None
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    after = weights(model)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert all((after[name] - before[name]).norm() <= 0.02 * before[name].norm() for name in before)


def test_a_model_that_rounding_ruins_is_refused_and_restored() -> None:
    model, ids = sensitive_model()
    before, implementation = weights(model), model.config._attn_implementation
    expected = greedy_tokens(model, [1, 2, 3], 8)
    with pytest.raises(KVError, match=r"^q8 raises the perplexity by \d+\.\d\d % on 1,071 tokens, more"):
        Engine(model, weights="q8", gate_text=ids)
    assert same(model, before)
    assert model.config._attn_implementation == implementation
    assert not any(isinstance(module, QuantisedLinear) for module in model.modules())
    assert greedy_tokens(model, [1, 2, 3], 8) == expected


def test_the_rise_is_that_of_perplexity_and_measuring_changes_no_weight() -> None:
    model, ids = sensitive_model()
    rows, before = split_rows(ids, POSITIONS), weights(model)
    plain = mean_nats(model, rows)
    with torch.inference_mode():
        whole = [model(torch.tensor([row]), labels=torch.tensor([row])).loss.item() for row in rows]
    assert plain == pytest.approx(sum(whole) / len(whole), abs=1e-5)  # all rows have the same length
    rise = perplexity_rise(model, "q8", rows)
    assert same(model, before)
    packed = pack_quantised(model, "q8", rows, max_rise=math.inf)
    with rounding_inputs(model.modules()):
        nats = mean_nats(model, rows)
    assert rise == packed.rise == pytest.approx(math.exp(nats - plain) - 1, rel=1e-6)
    assert rise > MAX_RISES["q8"]
    packed.unpack()
    assert same(model, before)


def test_every_adapter_is_measured_and_the_model_is_restored() -> None:
    """``red`` makes one activation, which the head ignores, so large that rounding erases all others."""
    model = make_lora_model()
    model.set_adapter("red")
    with torch.no_grad():
        head = model.get_base_model().lm_head.weight
        head *= 10
        head[:, 0] = 0
        layer = model.get_base_model().model.layers[-1].mlp.down_proj
        layer.lora_B["red"].weight[0] = 1000
    rows = [[first, *greedy_tokens(model, [first], POSITIONS - 1)] for first in range(1, 18)]
    model.set_adapter("blue")
    before, trained = weights(model), [weight.requires_grad for weight in model.parameters()]
    result = pack_quantised(model, "q8", rows, max_rise=math.inf)
    assert list(result.rises) == [None, "red", "blue"]
    assert result.rise == result.rises["red"] > 3 * max(abs(result.rises[None]), abs(result.rises["blue"]))
    assert " at most on 1,071 tokens" in result.summary
    result.unpack()
    with pytest.raises(KVError, match=r"^q8 raises the perplexity of adapter red by \d+\.\d\d % on 1,071 tokens"):
        pack_quantised(model, "q8", rows, max_rise=result.rise / 2)
    assert model.active_adapter == "blue"
    assert [weight.requires_grad for weight in model.parameters()] == trained
    assert same(model, before)


def test_interrupted_measuring_restores_the_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_lora_model()
    model.set_adapter("blue")
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        expected = model(ids).logits

    def interrupt(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("slm_kv.linear.quantisation_gate.mean_nats", interrupt)
    with pytest.raises(KeyboardInterrupt) as kept:  # its traceback holds the frames
        pack_quantised(model, "q8", split_rows(IDS, POSITIONS))
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, expected)
    assert kept.tb is not None


def test_an_engine_refused_for_nan_restores_the_model() -> None:
    model = make_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight[9] = torch.nan
    with pytest.raises(KVError, match="perplexity by nan %"):
        Engine(model, weights="q8", gate_text=IDS)
    assert isinstance(model.lm_head, nn.Linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "q8", "gate_text": [1] * 900}, "q8 is measured predicts 885 tokens; give one of at least 1,000"),
        ({"weights": "q4", "gate_text": []}, "q4 is measured predicts 0 tokens"),
        ({"weights": "q8", "gate_text": "words"}, "the engine has no tokenizer"),
        ({"weights": "q8"}, "the engine has no tokenizer"),
        ({"weights": "q8", "gate_text": [97]}, "token id 97 is outside"),
        ({"weights": "q8", "gate_text": IDS, "packed": False}, "packed=False does not"),
        ({"weights": "q5", "gate_text": IDS}, "weights='q5' is not q8 or q4"),
        ({"gate_text": IDS}, "for quantised weights only"),
    ],
)
def test_an_unusable_text_is_refused(options: dict[str, object], message: str) -> None:
    model = make_model("gpt2")
    before = model.config._attn_implementation
    with pytest.raises(KVError, match=message):
        Engine(model, **options)
    assert model.config._attn_implementation == before


def test_a_float64_model_has_no_layer_to_quantise() -> None:
    with pytest.raises(KVError, match="no linear layer can be held in q8"):
        pack_quantised(make_model("gpt2").double(), "q8", split_rows(IDS, POSITIONS))


def test_closing_an_engine_leaves_layers_packed_that_it_did_not_pack() -> None:
    model = make_model("neox")
    before = weights(model)
    packed = pack_quantised(model, "q8", split_rows(IDS, POSITIONS), max_rise=math.inf)
    handles = []
    with Engine(model, page_size=4, max_pages=20) as engine:  # finds no plain layer to pack
        handles.append(engine.submit([1, 2, 3], greedy_params(9)))
        run_to_end(engine)
    packed.unpack()
    assert len(handles[0].token_ids) == 9
    assert same(model, before)


@pytest.mark.parametrize(("weights", "limit"), [("q8", 1), ("q4", 3)])
def test_the_command_reports_the_rise(
    base: Loaded, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str, limit: int
) -> None:
    file = tmp_path / "stories.txt"
    file.write_text(text)
    flags = ["--model_path", "sample", "--device", "cpu", "--threads", "1", "--max_new_tokens", "4"]
    assert main([*flags, "--weights", weights, "--weights_text", str(file)]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith(f"{weights}: ")]
    assert line.startswith((f"{weights}: perplexity +", f"{weights}: perplexity -"))
    assert line.endswith(f" tokens (limit {limit} %) of {file}")


def test_the_built_in_text_is_long_enough_for_the_built_in_base(base: Loaded) -> None:
    assert len(base.tokenizer(built_in_text())["input_ids"]) > 1.5 * MIN_TOKENS


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "q8", "--dtype", "float16"], "--weights q8 and --dtype float16 exclude each other"),
        (["--weights_text", "x.txt"], "--weights_text is for --weights q8 and q4, not auto"),
        (["--weights", "q4", "--weights_text", "/no/such/file"], "--weights_text /no/such/file cannot be read"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"slm-paged: {message}")
