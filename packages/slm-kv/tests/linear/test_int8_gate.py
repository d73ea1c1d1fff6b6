"""8 bits are used only if the perplexity on a text allows it, and the model is restored to the bit in any case."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slm_kv import Engine, KVError, load
from slm_kv.linear.int8_gate import MAX_RISE, MIN_TOKENS, mean_nats, pack_int8, perplexity_rise, split_rows
from slm_kv.loading import Loaded
from slm_kv.paged import main
from slm_testing.kv.cpu_features import needs_int8
from slm_testing.kv.lora_model import make_lora_model
from slm_testing.kv.tiny_models import POSITIONS, greedy_params, greedy_tokens, make_model, run_to_end

IDS = [5, 11, 3] * 400
pytestmark = needs_int8


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

    Each row of its head has an outlier: the same in all, so that softmax cancels it, but so large that nothing else
    survives rounding.
    """
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight[:, 0] = 60
    rows = [[first, *greedy_tokens(model, [first], POSITIONS - 1)] for first in range(1, 18)]
    return model, [token for row in rows for token in row]


def test_the_built_in_base_is_accepted_and_texts_in_a_batch_are_those_alone(base: Loaded, text: str) -> None:
    model, tokenizer = base
    before, head = weights(model), model.get_output_embeddings().weight
    prompts = ["Once upon a time", "Tom had a red ball. He", "The sea was", "One day, a dog"]
    with Engine(model, tokenizer, int8_text=text) as engine:
        assert engine.int8 is not None
        assert -0.005 < engine.int8.rise <= MAX_RISE
        assert engine.int8.tokens > MIN_TOKENS
        assert "25 linear layers prepacked in 8 bits" in engine.summary
        alone = []
        for prompt in prompts:
            alone += engine.generate([prompt], greedy_params(24))
            engine.pool.clear_cache()
        together = engine.generate(prompts, greedy_params(24))
    assert [handle.token_ids for handle in together] == [handle.token_ids for handle in alone]
    assert same(model, before)
    assert model.get_output_embeddings().weight is head is model.get_input_embeddings().weight


def test_a_model_that_rounding_ruins_is_refused_and_restored() -> None:
    model, ids = sensitive_model()
    before, implementation = weights(model), model.config._attn_implementation
    expected = greedy_tokens(model, [1, 2, 3], 8)
    with pytest.raises(KVError, match=r"^int8 raises the perplexity by \d+\.\d\d % on 1,071 tokens, more"):
        Engine(model, int8_text=ids)
    assert same(model, before)
    assert model.config._attn_implementation == implementation
    assert not any("Int8" in type(module).__name__ for module in model.modules())
    assert greedy_tokens(model, [1, 2, 3], 8) == expected


def test_the_rise_is_that_of_perplexity_and_measuring_changes_no_weight() -> None:
    model, ids = sensitive_model()
    rows, before = split_rows(ids, POSITIONS), weights(model)
    plain = mean_nats(model, rows)
    with torch.inference_mode():
        whole = [model(torch.tensor([row]), labels=torch.tensor([row])).loss.item() for row in rows]
    assert plain == pytest.approx(sum(whole) / len(whole), abs=1e-5)  # all rows have the same length
    rise = perplexity_rise(model, rows)
    assert same(model, before)
    packed = pack_int8(model, rows, max_rise=math.inf)
    assert rise == packed.rise == pytest.approx(math.exp(mean_nats(model, rows) - plain) - 1, rel=1e-6)
    assert rise > MAX_RISE
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
    result = pack_int8(model, rows, max_rise=math.inf)
    assert list(result.rises) == [None, "red", "blue"]
    assert result.rise == result.rises["red"] > 3 * max(abs(result.rises[None]), abs(result.rises["blue"]))
    assert " at most on 1,071 tokens" in result.summary
    result.unpack()
    with pytest.raises(KVError, match=r"^int8 raises the perplexity of adapter red by \d+\.\d\d % on 1,071 tokens"):
        pack_int8(model, rows, max_rise=result.rise / 2)
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

    monkeypatch.setattr("slm_kv.linear.int8_gate.mean_nats", interrupt)
    with pytest.raises(KeyboardInterrupt) as kept:  # its traceback holds the frames
        pack_int8(model, split_rows(IDS, POSITIONS))
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, expected)
    assert kept.tb is not None


def test_an_engine_refused_for_nan_restores_the_model() -> None:
    model = make_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight[9] = torch.nan
    with pytest.raises(KVError, match="perplexity by nan %"):
        Engine(model, int8_text=IDS)
    assert isinstance(model.lm_head, nn.Linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"int8_text": [1] * 900}, "predicts 885 tokens; give one of at least 1,000"),
        ({"int8_text": []}, "predicts 0 tokens"),
        ({"int8_text": "words"}, "the engine has no tokenizer"),
        ({"int8_text": [97]}, "token id 97 is outside"),
        ({"int8_text": IDS, "packed": False}, "packed=False does not"),
    ],
)
def test_an_unusable_text_is_refused(options: dict[str, object], message: str) -> None:
    model = make_model("gpt2")
    before = model.config._attn_implementation
    with pytest.raises(KVError, match=message):
        Engine(model, **options)
    assert model.config._attn_implementation == before


def test_a_float64_model_has_no_layer_for_8_bits() -> None:
    with pytest.raises(KVError, match="no linear layer can be held in 8 bits"):
        pack_int8(make_model("gpt2").double(), split_rows(IDS, POSITIONS))


def test_closing_an_engine_leaves_layers_packed_that_it_did_not_pack() -> None:
    model = make_model("neox")
    before = weights(model)
    packed = pack_int8(model, split_rows(IDS, POSITIONS), max_rise=math.inf)
    handles = []
    with Engine(model, page_size=4, max_pages=20) as engine:  # finds no plain layer to pack
        handles.append(engine.submit([1, 2, 3], greedy_params(9)))
        run_to_end(engine)
    packed.unpack()
    assert len(handles[0].token_ids) == 9
    assert same(model, before)


def test_the_command_reports_the_rise_and_names_a_file_it_cannot_read(
    base: Loaded, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "stories.txt"
    file.write_text(text)
    flags = ["--model_path", "sample", "--device", "cpu", "--threads", "1", "--max_new_tokens", "4", "--int8"]
    assert main([*flags, str(file)]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("int8: ")]
    assert line.startswith(("int8: perplexity +0.", "int8: perplexity -0."))
    assert line.endswith(f" tokens of {file} (limit 1 %)")
    assert main([*flags, str(tmp_path / "none.txt")]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"slm-paged: --int8 {tmp_path / 'none.txt'} cannot be read")
