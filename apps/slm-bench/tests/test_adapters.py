"""``slm-bench adapters`` as a user has it, on the built-in base, and promises that are broken on purpose."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from slm_adapters import ButterflyLayer
from slm_bench.adapters import bench, exactness
from slm_bench.adapters.bases import base_of, digest
from slm_bench.adapters.contenders import Contender, contenders
from slm_bench.adapters.methods import METHODS
from slm_bench.adapters.quality import search
from slm_bench.cli import main
from slm_bench.promises import Promise
from slm_bench.sealing import seal
from slm_testing.bench.bench_runs import Done

LAYERS, WIDTH, OUT, STAGES = 6, 256, 3 * 256, 8  # of the built-in base, c_attn alone


def comparison(done: Done, title: str) -> dict[str, Any]:
    return next(one for one in done.found["results"]["comparisons"] if one["title"].startswith(title))


def test_methods_of_peft_and_ours_take_turns_and_every_sample_is_kept(adapters_run: Done) -> None:
    assert adapters_run.code == 0, adapters_run.out
    rows = comparison(adapters_run, "a training step, 1 x 8 tokens")["rows"]
    assert [row["name"] for row in rows] == ["the frozen base", *(one.name for one in METHODS if one.always)]
    assert [row["name"] for row in rows if not row["ratios"]] == ["LoRA, r=16"]
    trainable = {row["name"]: row["figures"]["trainable"] for row in rows}
    assert trainable["the frozen base"] == 0
    assert trainable["LoRA, r=16"] == LAYERS * 16 * (WIDTH + OUT)
    assert trainable["PEFT's OFT, blocks of 32"] == LAYERS * (WIDTH // 32) * (32 * 31 // 2)
    assert trainable["butterfly, narrower side"] == LAYERS * STAGES * WIDTH // 2
    for cost in adapters_run.found["results"]["training"]:
        assert len(cost["times"]["seconds"]) == 2
        assert cost["peak"] > 0
    assert adapters_run.plot.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "step time / LoRA's" in adapters_run.out
    assert adapters_run.out.count("kept ") >= 5


def test_a_token_is_decoded_by_adapted_layers_beside_the_same_alone(adapters_run: Done) -> None:
    rows = comparison(adapters_run, "one token")["rows"]
    names = [row["name"] for row in rows]
    assert names[0] == "the base layers"
    assert "butterfly, narrower side, rotation alone" in names
    assert all("time / the base layers'" in row["ratios"] for row in rows[1:])


def test_learning_begins_at_the_base_and_is_compared_with_lora(adapters_run: Done) -> None:
    rows = {row["name"]: row for row in comparison(adapters_run, "quality on sample from sample, 1 steps")["rows"]}
    assert "perplexity / LoRA's" in rows["butterfly"]["ratios"]
    assert rows["LoRA, r=1"]["ratios"] == {}
    before, after = (rows[name]["figures"]["bits/byte"] for name in ("before training", "butterfly"))
    assert after < before


@pytest.fixture(scope="module")
def base() -> Any:
    return base_of("sample", "cpu")


@pytest.fixture
def held(base: Any) -> list[Contender]:
    """A butterfly and LoRA on c_attn, untrained."""
    methods = [one for one in METHODS if one.name in ("butterfly, narrower side", "LoRA, r=16")]
    return contenders(base, methods, ["c_attn"], bf16=False)[0]


IDS = torch.arange(1, 9)[None]


def test_the_weights_of_the_base_are_there_once(base: Any, held: list[Contender]) -> None:
    own = {tensor.data_ptr() for tensor in base.parameters()}
    for one in held:
        frozen = [tensor for tensor in one.model.parameters() if not tensor.requires_grad]
        assert {tensor.data_ptr() for tensor in frozen} == own


def broken(promises: list[Promise]) -> list[str]:
    return [promise.says for promise in promises if not promise.held]


def test_a_method_that_does_not_begin_at_the_base_is_found(base: Any, held: list[Contender]) -> None:
    assert broken(exactness.begin_as_the_base(base, held, IDS)) == []
    for name, parameter in held[-1].model.named_parameters():
        if "butterfly_" in name:
            torch.nn.init.constant_(parameter, 1e-3)
    assert broken(exactness.begin_as_the_base(base, held, IDS)) == [
        "butterflies begin with the base's logits, bit for bit"
    ]


def test_a_matrix_that_is_no_rotation_is_found(held: list[Contender], monkeypatch: pytest.MonkeyPatch) -> None:
    exact = exactness.rotation_matrix
    for factor in (1.0001, float("nan")):
        monkeypatch.setattr(exactness, "rotation_matrix", lambda *given, by=factor: exact(*given) * by)
        (says,) = broken(exactness.stay_exact(held, IDS))
        assert "orthogonal" in says


def test_merging_that_changes_the_logits_is_found(held: list[Contender], monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        held[-1].step(IDS)
    assert broken(exactness.stay_exact(held, IDS)) == []
    monkeypatch.setattr(ButterflyLayer, "merge", lambda *_, **__: None)
    (says,) = broken(exactness.stay_exact(held, IDS))
    assert "merged" in says


def test_a_single_bit_of_the_base_that_changed_is_found(base: Any) -> None:
    before, weight = digest(base), base.transformer.h[0].attn.c_attn.weight
    assert exactness.unchanged(before, digest(base)).held
    kept = weight[0, 0].item()
    weight.data[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert not exactness.unchanged(before, digest(base)).held
    weight.data[0, 0] = kept
    assert exactness.unchanged(before, digest(base)).held


def test_a_broken_promise_is_named_and_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed = seal("adapters", {"model": "sample"}, {})
    monkeypatch.setattr(bench, "measure", lambda given: replace(sealed, promises=(Promise("it holds", False, "no"),)))
    assert main(["adapters"]) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_a_method_that_does_not_fit_is_left_out_with_the_reason(base: Any) -> None:
    found, left_out = contenders(base, METHODS[:3], ["c_atn"], bf16=False)
    assert len(found) == 1
    assert left_out.keys() == {method.name for method in METHODS[:3]}
    assert all("c_atn" in why for why in left_out.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--target_modules", "c_atn"], "'c_atn' matches no linear layer"),
        (["--tokens", "513"], "--tokens 513 do not fit sample, which has 512 positions"),
        (["--model_path", "./no/such/folder"], "no/such/folder"),
        (["--seeds", "3"], "--seeds goes with --quality"),
        (["--only", "training", "--four_bit"], "--four_bit is about decoding, which --only leaves out"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapters", *given]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("slm-bench: ")
    assert message in line


@pytest.mark.parametrize(("best", "beyond"), [(16.0, [8.0, 16.0, 32.0]), (0.25, [0.5, 0.25, 0.125]), (2.0, [])])
def test_a_search_goes_on_while_the_best_rate_lies_at_the_edge(best: float, beyond: list[float]) -> None:
    tried = search((1.0, 2.0, 4.0), lambda rate: abs(rate - best))
    assert list(tried) == [1.0, 2.0, 4.0, *beyond]


def test_a_run_that_ends_without_a_number_is_never_the_best() -> None:
    tried = search((1.0, 2.0, 4.0), lambda rate: float("inf") if rate > 1 else -rate)
    assert min(tried, key=lambda rate: tried[rate]) == 1.0
