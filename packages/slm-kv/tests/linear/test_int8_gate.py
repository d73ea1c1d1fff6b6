"""8 bits only where the perplexity measured on a text allows it, and the model back to the bit in any case."""

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
    sample = pytest.importorskip("slm_data.sample.corpus")
    return "\n".join(sample.stories(12, seed=2))


@pytest.fixture(scope="module")
def base() -> Iterator[Loaded]:
    pytest.importorskip("slm_adapters")
    return load("sample", dtype=torch.float32, device="cpu")


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def hostile() -> tuple[nn.Module, list[int]]:
    """A model with an outlier in each row of its head, alike in all so that softmax does not see it, but so large that
    nothing else survives rounding; and what it says itself."""
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight[:, 0] = 60
    own = [[first, *greedy_tokens(model, [first], POSITIONS - 1)] for first in range(1, 18)]
    return model, [token for row in own for token in row]


def test_the_built_in_base_is_accepted_and_texts_in_company_are_those_alone(base: Loaded, text: str) -> None:
    model, tokenizer = base
    before, head = weights(model), model.get_output_embeddings().weight
    asked = ["Once upon a time", "Tom had a red ball. He", "The sea was", "One day, a dog"]
    with Engine(model, tokenizer, int8_text=text) as engine:
        assert engine.int8 is not None
        assert -0.005 < engine.int8.rise <= MAX_RISE
        assert engine.int8.tokens > MIN_TOKENS
        assert "25 linear layers prepacked in 8 bits" in engine.summary
        alone = []
        for prompt in asked:
            alone += engine.generate([prompt], greedy_params(24))
            engine.pool.clear_cache()
        together = engine.generate(asked, greedy_params(24))
    assert [handle.token_ids for handle in together] == [handle.token_ids for handle in alone]
    assert same(model, before)
    assert model.get_output_embeddings().weight is head is model.get_input_embeddings().weight


def test_a_model_that_rounding_hurts_is_refused_and_stays_as_it_was() -> None:
    model, ids = hostile()
    before, implementation = weights(model), model.config._attn_implementation
    expected = greedy_tokens(model, [1, 2, 3], 8)
    with pytest.raises(KVError, match=r"^int8 raises the perplexity by \d+\.\d\d % on 1,071 tokens, more"):
        Engine(model, int8_text=ids)
    assert same(model, before)
    assert model.config._attn_implementation == implementation
    assert not any("Int8" in type(module).__name__ for module in model.modules())
    assert greedy_tokens(model, [1, 2, 3], 8) == expected


def test_the_rise_is_that_of_perplexity_and_measuring_changes_nothing() -> None:
    model, ids = hostile()
    rows, before = split_rows(ids, POSITIONS), weights(model)
    plain = mean_nats(model, rows)
    with torch.inference_mode():
        whole = [model(torch.tensor([row]), labels=torch.tensor([row])).loss.item() for row in rows]
    assert plain == pytest.approx(sum(whole) / len(whole), abs=1e-5)  # rows of one length
    rise = perplexity_rise(model, rows)
    assert same(model, before)
    packed = pack_int8(model, rows, max_rise=math.inf)
    assert rise == packed.rise == pytest.approx(math.exp(mean_nats(model, rows) - plain) - 1, rel=1e-6)
    assert rise > MAX_RISE
    packed.unpack()
    assert same(model, before)


def test_every_adapter_is_measured_and_all_is_as_it_was() -> None:
    """One of them drives a number up that the head does not read, so far that rounding leaves nothing beside it."""
    model = make_lora_model()
    model.set_adapter("red")
    with torch.no_grad():
        head = model.get_base_model().lm_head.weight
        head *= 10
        head[:, 0] = 0
        layer = model.get_base_model().model.layers[-1].mlp.down_proj
        layer.lora_B["red"].weight[0] = 1000
    own = [[first, *greedy_tokens(model, [first], POSITIONS - 1)] for first in range(1, 18)]
    model.set_adapter("blue")
    before, trained = weights(model), [weight.requires_grad for weight in model.parameters()]
    found = pack_int8(model, own, max_rise=math.inf)
    assert list(found.rises) == [None, "red", "blue"]
    assert found.rise == found.rises["red"] > 3 * max(abs(found.rises[None]), abs(found.rises["blue"]))
    assert " at most on 1,071 tokens" in found.summary
    found.unpack()
    with pytest.raises(KVError, match=r"^int8 raises the perplexity of adapter red by \d+\.\d\d % on 1,071 tokens"):
        pack_int8(model, own, max_rise=found.rise / 2)
    assert model.active_adapter == "blue"
    assert [weight.requires_grad for weight in model.parameters()] == trained
    assert same(model, before)


def test_measuring_that_breaks_off_leaves_the_adapters_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_lora_model()
    model.set_adapter("blue")
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        expected = model(ids).logits

    def breaks(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("slm_kv.linear.int8_gate.mean_nats", breaks)
    with pytest.raises(KeyboardInterrupt) as kept:  # its traceback holds the frames
        pack_int8(model, split_rows(IDS, POSITIONS))
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, expected)
    assert kept.tb is not None


def test_an_engine_refused_for_nan_leaves_the_model_too() -> None:
    model = make_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight[9] = torch.nan
    with pytest.raises(KVError, match="perplexity by nan %"):
        Engine(model, int8_text=IDS)
    assert isinstance(model.lm_head, nn.Linear)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"int8_text": [1] * 900}, "predicts 885 tokens; give one of at least 1,000"),
        ({"int8_text": []}, "predicts 0 tokens"),
        ({"int8_text": "words"}, "the engine has no tokenizer"),
        ({"int8_text": [97]}, "token id 97 is outside"),
        ({"int8_text": IDS, "packed": False}, "packed=False does not"),
    ],
)
def test_a_text_that_says_nothing_is_refused(given: dict[str, object], message: str) -> None:
    model = make_model("gpt2")
    before = model.config._attn_implementation
    with pytest.raises(KVError, match=message):
        Engine(model, **given)
    assert model.config._attn_implementation == before


def test_float64_has_no_layer_for_it() -> None:
    with pytest.raises(KVError, match="no linear layer can be held in 8 bits"):
        pack_int8(make_model("gpt2").double(), split_rows(IDS, POSITIONS))


def test_a_tiny_engine_in_8_bits_is_closed_with_its_own_weights() -> None:
    model = make_model("neox")
    before = weights(model)
    packed = pack_int8(model, split_rows(IDS, POSITIONS), max_rise=math.inf)
    handles = []
    with Engine(model, page_size=4, max_pages=20) as engine:  # what is packed already stays so
        handles.append(engine.submit([1, 2, 3], greedy_params(9)))
        run_to_end(engine)
    packed.unpack()
    assert len(handles[0].token_ids) == 9
    assert same(model, before)


def test_the_command_tells_the_rise_and_names_a_file_it_cannot_read(
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
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"slm-paged: --int8 {tmp_path / 'none.txt'} cannot be read")
