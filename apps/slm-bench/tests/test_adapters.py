"""``slm-bench adapters`` as a user runs it, on the built-in base, and guarantees broken on purpose."""

from typing import Any

import pytest
import torch

from slm_adapters import ButterflyLayer
from slm_bench.adapters import benchmark, exactness
from slm_bench.adapters.base_models import digest, load_base
from slm_bench.adapters.contenders import Contender, make_contenders
from slm_bench.adapters.methods import METHODS
from slm_bench.cli import main
from slm_bench.harness.guarantees import Guarantee
from slm_bench.harness.provenance import new_result
from slm_bench.harness.result_file import Findings
from slm_testing.bench.command_runs import CommandRun, comparison

LAYERS, WIDTH, OUT, STAGES = 6, 256, 3 * 256, 8  # of the built-in base, c_attn alone


def test_all_methods_are_timed_in_rounds_and_every_sample_is_in_the_result_file(adapters_run: CommandRun) -> None:
    assert adapters_run.exit_code == 0, adapters_run.out
    rows = comparison(adapters_run, "a training step, 1 x 8 tokens")["rows"]
    assert [row["name"] for row in rows] == ["the frozen base", *(method.name for method in METHODS if method.always)]
    assert [row["name"] for row in rows if not row["ratios"]] == ["LoRA, r=16"]
    trainable = {row["name"]: row["figures"]["trainable"] for row in rows}
    assert trainable["the frozen base"] == 0
    assert trainable["LoRA, r=16"] == LAYERS * 16 * (WIDTH + OUT)
    assert trainable["PEFT's OFT, blocks of 32"] == LAYERS * (WIDTH // 32) * (32 * 31 // 2)
    assert trainable["butterfly, narrower side"] == LAYERS * STAGES * WIDTH // 2
    for cost in adapters_run.result["results"]["training"]:
        assert len(cost["times"]["seconds"]) == 2
        assert cost["peak"] > 0
    operations = {row["name"]: row["figures"]["operations"] for row in rows}
    assert operations["the frozen base"] < operations["butterfly, narrower side"] < operations["PEFT's HRA, r=8"]
    assert adapters_run.plot.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "step time / LoRA's" in adapters_run.out
    assert adapters_run.out.count("kept ") >= 5


def test_decoding_is_timed_for_adapted_layers_and_for_the_base_layers(adapters_run: CommandRun) -> None:
    rows = comparison(adapters_run, "one token")["rows"]
    names = [row["name"] for row in rows]
    assert names[0] == "the base layers"
    assert "butterfly, narrower side, rotation alone" in names
    assert all("time / the base layers'" in row["ratios"] for row in rows[1:])


@pytest.fixture(scope="module")
def base() -> Any:
    return load_base("sample", "cpu")


@pytest.fixture
def untrained(base: Any) -> list[Contender]:
    """The base alone, LoRA and a butterfly on c_attn."""
    methods = [method for method in METHODS if method.name in ("butterfly, narrower side", "LoRA, r=16")]
    return make_contenders(base, methods, ["c_attn"], bf16=False)[0]


IDS = torch.arange(1, 9)[None]


def test_all_contenders_share_the_weights_of_the_base(base: Any, untrained: list[Contender]) -> None:
    base_tensors = {tensor.data_ptr() for tensor in base.parameters()}
    for contender in untrained:
        frozen = [tensor for tensor in contender.model.parameters() if not tensor.requires_grad]
        assert {tensor.data_ptr() for tensor in frozen} == base_tensors


def broken(guarantees: list[Guarantee]) -> list[str]:
    return [guarantee.statement for guarantee in guarantees if not guarantee.holds]


def test_a_butterfly_that_does_not_start_as_the_base_is_reported(base: Any, untrained: list[Contender]) -> None:
    assert broken(exactness.start_as_base(base, untrained, IDS)) == []
    for name, parameter in untrained[-1].model.named_parameters():
        if "butterfly_" in name:
            torch.nn.init.constant_(parameter, 1e-3)
    assert broken(exactness.start_as_base(base, untrained, IDS)) == [
        "butterflies begin with the base's logits, bit for bit"
    ]


def test_a_matrix_that_is_not_orthogonal_is_reported(
    untrained: list[Contender], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = exactness.rotation_matrix
    for factor in (1.0001, float("nan")):
        monkeypatch.setattr(exactness, "rotation_matrix", lambda *args, factor=factor: exact(*args) * factor)
        (statement,) = broken(exactness.stay_exact(untrained, IDS))
        assert "orthogonal" in statement


def test_merging_that_changes_the_logits_is_reported(
    untrained: list[Contender], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        untrained[-1].step(IDS)
    assert broken(exactness.stay_exact(untrained, IDS)) == []
    monkeypatch.setattr(ButterflyLayer, "merge", lambda *_, **__: None)
    (statement,) = broken(exactness.stay_exact(untrained, IDS))
    assert "merged" in statement


def test_a_single_changed_bit_of_the_base_is_reported(base: Any) -> None:
    before, weight = digest(base), base.transformer.h[0].attn.c_attn.weight
    assert exactness.base_unchanged(before, digest(base)).holds
    original = weight[0, 0].item()
    weight.data[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert not exactness.base_unchanged(before, digest(base)).holds
    weight.data[0, 0] = original
    assert exactness.base_unchanged(before, digest(base)).holds


def test_a_broken_guarantee_is_named_and_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = Findings(guarantees=[Guarantee("it holds", False, "no")])
    result = new_result("adapters", {"model": "sample"}, findings)
    monkeypatch.setattr(benchmark, "measure", lambda arguments: result)
    assert main(["adapters"]) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_a_method_that_does_not_fit_is_left_out_with_the_reason(base: Any) -> None:
    contenders, left_out = make_contenders(base, METHODS[:3], ["c_atn"], bf16=False)
    assert len(contenders) == 1
    assert left_out.keys() == {method.name for method in METHODS[:3]}
    assert all("c_atn" in reason for reason in left_out.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target_modules", "c_atn"], "'c_atn' matches no linear layer"),
        (["--tokens", "513"], "--tokens 513 do not fit sample, which has 512 positions"),
        (["--model_path", "./no/such/folder"], "no/such/folder"),
        (["--seeds", "3"], "--seeds goes with --quality"),
        (["--quality", "--methods", "lora,dorra"], "--methods: 'dorra' is not one of lora, dora, butterfly-auto"),
        (["--only", "quality", "--methods", "lora", "--steps", "100000"], "steps of 4 need more; use fewer --steps"),
        (["--only", "training", "--four_bit"], "--four_bit is about decoding, which --only leaves out"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapters", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("slm-bench: ")
    assert message in line
