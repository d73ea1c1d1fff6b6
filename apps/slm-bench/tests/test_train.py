"""``slm-bench train`` as a user runs it, on the built-in corpus, and guarantees broken on purpose."""

import sys
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from slm_bench.cli import main
from slm_bench.harness.arguments import Command
from slm_bench.harness.guarantees import Guarantee
from slm_bench.train import exactness
from slm_bench.train.arguments import add_train
from slm_bench.train.contenders import CONTENDERS, pad
from slm_bench.train.inputs import Inputs, options_from, read_inputs
from slm_bench.train.slm_trainers import budget_trainer, flow_trainer
from slm_data import IGNORE_INDEX
from slm_testing.bench.command_runs import SMALL_TRAIN, CommandRun, comparison
from slm_train import BudgetTrainer, FusedLoss


def test_all_contenders_train_on_the_same_texts_and_every_sample_is_in_the_result_file(train_run: CommandRun) -> None:
    assert train_run.exit_code == 0, train_run.out
    results = train_run.result["results"]
    assert list(results["budget"]) == [name for name in CONTENDERS if not name.startswith("TRL")]
    assert len(results["documents"]) == 12
    for runs in results["budget"].values():
        (run,) = runs
        assert run["speed"] > 0
        assert all(tokens >= 80 for tokens in run["step_tokens"])  # about the budget of 160
    rows = {row["name"]: row for row in comparison(train_run, "steps of")["rows"]}
    loop = rows["loop, a document a row"]
    assert set(loop["ratios"]) == {"tokens/s / plain Trainer", "tokens/s / Trainer flow"}
    assert loop["figures"]["tokens a step"] >= 160  # a step ends once the budget is reached
    assert all(len(speeds) == 1 for speeds in results["packed"].values())
    assert len(results["overhead"]["loop"]) == len(results["overhead"]["bare"]) == 1
    assert train_run.plot.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_guarantees_are_checked_and_a_missing_peer_is_named_with_its_installation(train_run: CommandRun) -> None:
    guarantees = train_run.result["promises"]
    assert len(guarantees) == 4
    assert all(guarantee["held"] for guarantee in guarantees)
    assert "TRL, packed is left out: it is not installed; pip install trl" in train_run.err
    assert "TRL, packed" in train_run.result["results"]["left_out"]


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    parser = Command()
    add_train(parser.add_subparsers())
    return read_inputs(options_from(parser.parse_args(["train", *SMALL_TRAIN])))


@pytest.fixture(scope="module")
def rows(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = str(tmp_path_factory.mktemp("flow"))
    return flow_trainer(inputs, folder, 0, "--packing best_fit").train_dataset


@pytest.fixture(scope="module")
def model(inputs: Inputs) -> Any:
    return inputs.new_model(0, ours=True, mode="baseline").eval()


def test_packed_documents_that_attend_to_each_other_are_reported(
    model: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutPositions(exactness.RowCollator):
        def __call__(self, rows: Any) -> dict[str, Tensor]:
            return {name: value for name, value in super().__call__(rows).items() if name != "position_ids"}

    assert exactness.packed_documents_are_independent(model, rows).holds
    monkeypatch.setattr(exactness, "RowCollator", WithoutPositions)
    assert not exactness.packed_documents_are_independent(model, rows).holds


def test_a_wrong_fused_loss_is_reported(model: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fused_loss: Any = sys.modules[FusedLoss.__module__]
    exact = fused_loss.linear_cross_entropy
    monkeypatch.setattr(FusedLoss, "_agrees", lambda *_: True)
    monkeypatch.setattr(fused_loss, "linear_cross_entropy", lambda *args: exact(*args) * 1.001)
    assert not exactness.fused_loss_matches(model, rows).holds


def test_a_loop_that_weights_its_micro_batches_wrongly_is_reported(
    inputs: Inputs, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = BudgetTrainer._loss
    monkeypatch.setattr(BudgetTrainer, "_loss", lambda *args: exact(*args) * 1.001)
    loop = budget_trainer(inputs, str(tmp_path), 0, "none", flags="--max_grad_norm 0")
    assert not exactness.micro_batches_match_one_batch(loop).holds


def test_a_text_that_is_in_no_row_is_reported(inputs: Inputs, rows: Any, tmp_path: Any) -> None:
    loop = budget_trainer(inputs, str(tmp_path), 0, "none")
    assert exactness.all_tokens_are_counted(inputs, loop, rows).holds
    more = replace(inputs, documents=[*inputs.documents, [1, 2, 3]])
    assert not exactness.all_tokens_are_counted(more, loop, rows).holds


def test_padding_has_no_loss_and_is_masked() -> None:
    batch = pad([[5, 6, 7], [8]], length=4)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7, IGNORE_INDEX], [8, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]]


def test_varied_texts_are_beginnings_of_the_same_texts_and_lengths_vary_more() -> None:
    parser = Command()
    add_train(parser.add_subparsers())
    plain, cut = (
        read_inputs(options_from(parser.parse_args(["train", *SMALL_TRAIN, *more]))) for more in ([], ["--varied"])
    )
    for whole, part in zip(plain.corpus.train, cut.corpus.train, strict=True):
        assert whole.startswith(part)
    assert min(map(len, cut.documents)) < min(map(len, plain.documents)) / 2


def test_a_difference_of_other_names_or_nan_is_never_small() -> None:
    gradients = {"a": Tensor([1.0])}
    assert exactness.relative_error(gradients, gradients) == 0
    assert exactness.relative_error({}, gradients) == float("inf")
    assert not exactness.relative_error({"a": Tensor([float("nan")])}, gradients) <= exactness.TOLERANCE


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "1"], "--steps 1 leaves none to count"),
        (["--block_size", "5000"], "--block_size 5000 is longer than the 1024 tokens"),
        (["--tokenizer", "./no/such/folder"], "--tokenizer ./no/such/folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SMALL_TRAIN, *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("slm-bench: ")
    assert message in line


def test_measurements_are_selected_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--only", "everything"])
    assert "'everything' is not one of exactness, budget, packed, overhead" in capsys.readouterr().err


def test_a_broken_guarantee_makes_the_exit_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(exactness, "check_all", lambda inputs: [Guarantee("it holds", False, "it did not")])
    assert main(["train", *SMALL_TRAIN, "--only", "exactness", "--plot", str(tmp_path / "plot")]) == 1
