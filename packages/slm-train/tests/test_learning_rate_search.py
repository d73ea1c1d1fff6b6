"""``--find_learning_rate``: which rates are tried, and that trials leave no trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from slm_data import RowDataset, load_corpus
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.killing import outcome
from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.cli import main
from slm_train.command_line.parsing import parse_arguments
from slm_train.data.rows import make_rows
from slm_train.data.trial_rows import choose_trial_rows, micro_batches
from slm_train.learning_rate_search.search import CLOSE, Trial, best_of, choose, explore
from slm_train.model.base_model import find_base_model

Flags = Callable[..., list[str]]
FLOWS = pytest.mark.parametrize("flags", [Tiny.flags, dynamic], ids=["trainer", "dynamic"])


@pytest.mark.parametrize(
    ("best", "rates"),
    [
        (0.01, [0.0033, 0.01, 0.03]),
        (0.02, [0.0033, 0.01, 0.03, 0.09]),
        (0.5, [0.0033, 0.01, 0.03, 0.09, 0.27]),
        (1e-6, [0.00037, 0.0011, 0.0033, 0.01, 0.03][:5]),
    ],
)
def test_rates_are_tried_towards_lower_losses(best: float, rates: list[float]) -> None:
    trials = explore(lambda rate: abs(math.log(rate / best)), 0.01)
    assert [trial.learning_rate for trial in trials] == pytest.approx(rates, rel=0.02)
    assert best_of(trials).learning_rate == pytest.approx(min(rates, key=lambda rate: abs(math.log(rate / best))), 0.02)


def test_rates_that_diverge_lead_to_lower_ones() -> None:
    trials = explore(lambda rate: math.inf if rate > 1e-3 else 2.0, 0.01)
    assert [trial.loss for trial in trials] == [2.0, math.inf, math.inf, math.inf, math.inf][: len(trials)]
    assert best_of(trials).learning_rate < 1e-3


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ([5.3, 5.116, 5.114, 7.5], 1),  # a tie
        ([5.5, 5.2, 5.0], 2),  # a clear best
        ([5.09, 5.0, 5.5], 0),  # the fall counts, not the loss: 0.91 of 1
        ([5.11, 5.0, 5.5], 1),
        ([6.3, 6.1, 6.2], 1),  # every loss rose
        ([math.inf, 5.05, 5.0], 1),
        ([6.1, math.inf, math.inf], 0),
    ],
)
def test_the_lowest_rate_close_to_the_best_is_chosen(losses: list[float], chosen: int) -> None:
    trials = tuple(Trial(3.0**power, loss) for power, loss in enumerate(losses))
    assert choose(trials, loss_before=6.0) == trials[chosen]


def test_no_rate_is_chosen_if_all_diverge() -> None:
    assert choose((Trial(1.0, math.inf), Trial(3.0, math.inf)), loss_before=6.0).loss == math.inf


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        (Tiny.flags, ("--mode", "lora")),
        (Tiny.flags, ("--mode", "baseline", "--muon", "--gradient_accumulation_steps", "2")),
        pytest.param(Tiny.flags, ("--mode", "butterfly", "--packing", "none"), marks=pytest.mark.slow),
        (Tiny.flags, ("--mode", "qlora", "--bf16", "true")),
        (dynamic, ("--mode", "baseline", "--bf16", "true", "--gradient_checkpointing")),
        pytest.param(dynamic, ("--mode", "butterfly_block", "--butterfly_preset", "quality"), marks=pytest.mark.slow),
    ],
)
def test_the_run_is_bit_for_bit_that_of_the_chosen_rate(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: Flags, more: tuple[str, ...]
) -> None:
    assert main(flags(tiny, tmp_path / "found", *more, "--find_learning_rate", "--learning_rate", "1e-4")) == 0
    record, printed = read_record(tmp_path / "found"), capsys.readouterr().out
    search = record["learning_rate_search"]
    rate = search["chosen"]
    assert rate > 1e-4  # which is far too low for so small a model
    assert record["arguments"]["learning_rate"] == rate
    falls = {trial["learning_rate"]: search["loss_before"] - trial["loss"] for trial in search["trials"]}
    assert max(falls.values()) > 0
    assert rate == min(rate for rate, fall in falls.items() if fall >= CLOSE * max(falls.values()))
    assert f"{rate:.2g}" in next(line for line in printed.splitlines() if line.endswith("chosen"))
    assert main(flags(tiny, tmp_path / "given", *more, "--learning_rate", str(rate))) == 0
    assert outcome(tmp_path / "found") == outcome(tmp_path / "given")


@FLOWS
def test_a_resumed_run_keeps_the_rate_that_was_found(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: Flags
) -> None:
    save = ("--save_steps", "2") if flags is Tiny.flags else ()
    words = ("--find_learning_rate", "--learning_rate", "1e-4", *save)
    assert main(flags(tiny, tmp_path / "run", *words)) == 0
    first, whole = read_record(tmp_path / "run"), outcome(tmp_path / "run")
    capsys.readouterr()
    assert main([*flags(tiny, tmp_path / "run", *words), "--resume_from_checkpoint"]) == 0
    assert "trials of" not in capsys.readouterr().out
    second = read_record(tmp_path / "run")
    assert outcome(tmp_path / "run") == whole
    for part in ("learning_rate_search", "identity"):
        assert second[part] == first[part]
    assert second["arguments"]["learning_rate"] == first["learning_rate_search"]["chosen"]


@FLOWS
@pytest.mark.parametrize("documents", ["1", "3", "60"])
def test_trials_are_judged_on_rows_that_they_do_not_train_on(
    tiny: Tiny, tmp_path: Path, flags: Flags, documents: str
) -> None:
    arguments = parse_arguments(flags(tiny, tmp_path, "--max_train_samples", documents))
    corpus = load_corpus(arguments.source)
    base = find_base_model(arguments.model, arguments.model_name, corpus.train)
    train = make_rows(arguments, corpus, base, lambda _: None).train
    assert isinstance(train, RowDataset)
    rows = choose_trial_rows(arguments, train, steps=6)
    lengths = train.plan.row_lengths
    trained = {row for step in rows.steps for row in step}
    assert rows.judged
    assert len(rows.steps) == 6
    assert len(train) == 1 or not trained & set(rows.judged)
    assert len(rows.judged) <= max(1, len(train) // 4)
    for step in rows.steps:
        parts = micro_batches(arguments, lengths, step)
        assert sorted(row for part in parts for row in part) == sorted(step)
        if arguments.budget:
            assert lengths[step[:-1]].sum() < arguments.budget.target_tokens_per_step <= lengths[step].sum()
            assert all(len(part) * lengths[part].max() <= 128 for part in parts)
        else:
            assert len(step) == 4


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--streaming",), "--streaming"),
        (("--optim", "lomo"), "--optim lomo"),
        (("--learning_rate", "0"), "--learning_rate 0; give a positive one"),
        (("--learning_rate", "1e30"), "every learning rate down to"),
    ],
)
def test_a_search_that_cannot_work_is_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, more: tuple[str, ...], named: str
) -> None:
    assert named in refused(tiny.flags(tmp_path / "run", "--find_learning_rate", "--mode", "baseline", *more))


def test_a_dry_run_does_not_search_and_says_so(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tiny.flags(tmp_path / "run", "--find_learning_rate", "--dry_run")) == 0
    printed = capsys.readouterr().out
    assert "--find_learning_rate is not run in a dry run" in printed
    assert "trials of" not in printed
