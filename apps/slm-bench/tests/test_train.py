"""``slm-bench train`` as a user has it, on the built-in corpus, and promises that are broken on purpose."""

import argparse
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from slm_bench.cli import main
from slm_bench.promises import Promise
from slm_bench.train import exactness, flags
from slm_bench.train.flows import flow_trainer, loop_trainer
from slm_bench.train.setting import Setting, options_of, read
from slm_bench.train.ways import WAYS, padded
from slm_data import IGNORE_INDEX as IGNORE
from slm_testing.bench.bench_runs import TRAIN, Done
from slm_train import BudgetTrainer, fused_loss


def comparison(done: Done, title: str) -> dict[str, Any]:
    return next(one for one in done.found["results"]["comparisons"] if one["title"].startswith(title))


def test_all_ways_train_on_the_same_texts_and_every_sample_is_kept(train_run: Done) -> None:
    assert train_run.code == 0, train_run.out
    results = train_run.found["results"]
    assert list(results["budget"]) == [name for name in WAYS if not name.startswith("TRL")]
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


def test_what_is_claimed_is_looked_at_and_a_missing_peer_is_named_with_a_way_to_have_it(train_run: Done) -> None:
    promises = train_run.found["promises"]
    assert len(promises) == 4
    assert all(promise["held"] for promise in promises)
    assert "TRL, packed is left out: it is not installed; pip install trl" in train_run.err
    assert "TRL, packed" in train_run.found["results"]["left_out"]


@pytest.fixture(scope="module")
def setting() -> Setting:
    parser = argparse.ArgumentParser()
    flags.add(parser.add_subparsers())
    return read(options_of(parser.parse_args(["train", *TRAIN])))


@pytest.fixture(scope="module")
def rows(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = str(tmp_path_factory.mktemp("flow"))
    return flow_trainer(setting, folder, 0, "--packing best_fit").train_dataset


@pytest.fixture(scope="module")
def model(setting: Setting) -> Any:
    return setting.model(0, ours=True, mode="baseline").eval()


def test_documents_that_see_each_other_are_found(model: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(exactness.RowCollator):
        def __call__(self, rows: Any) -> dict[str, Tensor]:
            return {name: value for name, value in super().__call__(rows).items() if name != "position_ids"}

    assert exactness.packed_is_apart(model, rows).held
    monkeypatch.setattr(exactness, "RowCollator", Careless)
    assert not exactness.packed_is_apart(model, rows).held


def test_a_fused_loss_that_is_another_is_found(model: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = fused_loss.linear_cross_entropy
    monkeypatch.setattr(fused_loss.FusedLoss, "_agrees", lambda *_: True)
    monkeypatch.setattr(fused_loss, "linear_cross_entropy", lambda *given: exact(*given) * 1.001)
    assert not exactness.fused_is_usual(model, rows).held


def test_a_loop_that_weighs_its_micro_batches_wrongly_is_found(
    setting: Setting, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = BudgetTrainer._loss
    monkeypatch.setattr(BudgetTrainer, "_loss", lambda *given: exact(*given) * 1.001)
    loop = loop_trainer(setting, str(tmp_path), 0, "none", more="--max_grad_norm 0")
    assert not exactness.parts_are_the_whole(loop).held


def test_a_text_that_no_row_holds_is_found(setting: Setting, rows: Any, tmp_path: Any) -> None:
    loop = loop_trainer(setting, str(tmp_path), 0, "none")
    assert exactness.counts(setting, loop, rows).held
    more = replace(setting, documents=[*setting.documents, [1, 2, 3]])
    assert not exactness.counts(more, loop, rows).held


def test_padding_has_no_loss_and_nobody_looks_at_it() -> None:
    batch = padded([[5, 6, 7], [8]], length=4)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7, IGNORE], [8, IGNORE, IGNORE, IGNORE]]


def test_varied_texts_are_beginnings_of_the_same_texts_and_lengths_differ_more() -> None:
    parser = argparse.ArgumentParser()
    flags.add(parser.add_subparsers())
    plain, cut = (read(options_of(parser.parse_args(["train", *TRAIN, *more]))) for more in ([], ["--varied"]))
    for whole, part in zip(plain.corpus.train, cut.corpus.train, strict=True):
        assert whole.startswith(part)
    assert min(map(len, cut.documents)) < min(map(len, plain.documents)) / 2


def test_a_difference_of_other_names_or_no_number_is_never_small() -> None:
    one = {"a": Tensor([1.0])}
    assert exactness.relative(one, one) == 0
    assert exactness.relative({}, one) == float("inf")
    assert not exactness.relative({"a": Tensor([float("nan")])}, one) <= exactness.SAME


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--steps", "1"], "--steps 1 leaves none to count"),
        (["--block_size", "5000"], "--block_size 5000 is longer than the 1024 tokens"),
        (["--tokenizer", "./no/such/folder"], "--tokenizer ./no/such/folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TRAIN, *given]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("slm-bench: ")
    assert message in line


def test_measurements_are_asked_for_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--only", "everything"])
    assert "'everything' is none of exactness, budget, packed, overhead" in capsys.readouterr().err


def test_a_broken_promise_makes_the_exit_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(exactness, "promises", lambda setting: [Promise("it holds", False, "it did not")])
    assert main(["train", *TRAIN, "--only", "exactness", "--plot", str(tmp_path / "plot")]) == 1
