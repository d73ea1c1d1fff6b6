"""``--max_eval_tokens``: which validation rows are evaluated, and that it is always the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slm_data import RowDataset, TokenCounts, TokenStore, as_packing, plan_rows
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.cli import main
from slm_train.data.evaluated_rows import choose_evaluated

LIMIT = ("--max_eval_tokens", "300")


def validation_rows(packing: str, documents: int = 400) -> RowDataset:
    """Rows of documents that become longer and longer."""
    lengths = np.linspace(4, 90, documents).astype(np.int64)
    counts = TokenCounts(documents, int(lengths.sum()), 1, 0)
    store = TokenStore("rows", np.arange(lengths.sum(), dtype=np.uint32), lengths, counts, "", reused=False)
    return RowDataset(store, plan_rows(lengths, 64, as_packing(packing)))


@pytest.mark.parametrize("packing", ["best_fit", "concat", "none"])
@pytest.mark.parametrize("limit", [500, 5_000, 15_000])
def test_about_that_many_tokens_from_all_parts_of_the_texts_are_evaluated(packing: str, limit: int) -> None:
    rows = validation_rows(packing)
    chosen = choose_evaluated(rows, limit, lambda _: None)
    tokens = np.concatenate([chosen[row].input_ids for row in range(len(chosen))])
    assert len(tokens) == pytest.approx(limit, abs=max(64, 0.05 * limit))
    assert len(set(tokens.tolist())) == len(tokens)  # no token twice
    # Token ids count the tokens of the corpus: their mean is near the middle if no part is preferred.
    assert tokens.mean() == pytest.approx(rows.plan.tokens / 2, rel=0.25 if limit == 500 else 0.1)


@pytest.mark.parametrize("packing", ["best_fit", "concat", "none"])
def test_a_chosen_row_is_a_row_of_the_split(packing: str) -> None:
    rows = validation_rows(packing)
    all_rows = {tuple(row.input_ids): tuple(row.segments) for row in (rows[index] for index in range(len(rows)))}
    chosen = choose_evaluated(rows, 2_000, lambda _: None)
    for row in (chosen[index] for index in range(len(chosen))):
        assert all_rows[tuple(row.input_ids)] == tuple(row.segments)


@pytest.mark.parametrize("limit", [0, 10**9])
def test_all_rows_are_evaluated_with_0_and_where_they_are_few(limit: int) -> None:
    rows, printed = validation_rows("none"), list[str]()
    chosen = choose_evaluated(rows, limit, printed.append)
    assert sorted(chosen.plan.start) == sorted(rows.plan.start)
    assert not printed


def test_even_the_smallest_limit_leaves_a_row() -> None:
    assert len(choose_evaluated(validation_rows("none"), 1, lambda _: None)) == 1


@pytest.mark.parametrize("flags", [Tiny.flags, dynamic], ids=["trainer", "dynamic"])
def test_the_part_is_printed_recorded_and_the_same_before_and_after(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: object
) -> None:
    assert callable(flags)
    assert main(flags(tiny, tmp_path / "run", *LIMIT, "--max_steps", "2")) == 0
    output, record = capsys.readouterr().out, read_record(tmp_path / "run")
    validation, evaluation = record["data"]["validation"], record["evaluation"]
    evaluated, total = validation["evaluated_tokens"], validation["tokens"]
    assert evaluated == pytest.approx(300, abs=64)
    assert evaluated < total
    assert 0 < validation["evaluated_rows"] < validation["rows"]
    assert f"evaluating on {evaluated:,} of {total:,} tokens (--max_eval_tokens)" in output
    assert f"the validation texts have {total:,}" in output.replace("\n", " ")
    # The first token of each document, or piece of one, is not predicted.
    assert evaluated / 2 < evaluation["before"]["tokens"] == evaluation["after"]["tokens"] < evaluated


def test_a_resumed_run_is_evaluated_on_the_rows_that_it_began_with(
    tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    run = dynamic(tiny, tmp_path / "run", *LIMIT, "--max_steps", "2")
    assert main(run) == 0
    tokens = read_record(tmp_path / "run")["evaluation"]["after"]["tokens"]
    resumed = [*dynamic(tiny, tmp_path / "run", "--max_steps", "3"), "--resume_from_checkpoint"]
    resumed += ["--accept_changes", "max_steps"]
    assert main(resumed) == 0
    assert read_record(tmp_path / "run")["evaluation"]["after"]["tokens"] == tokens
    assert "give 300, or another --output_dir" in refused([*resumed, "--max_eval_tokens", "0"])


def test_a_negative_number_is_refused(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    assert "--max_eval_tokens -1 must not be below 0" in refused(tiny.flags(tmp_path, "--max_eval_tokens", "-1"))


@pytest.mark.parametrize(
    ("flags", "size"),
    [
        ((), 4),
        (("--per_device_train_batch_size", "16"), 8),
        (("--per_device_eval_batch_size", "16"), 16),
    ],
)
def test_an_evaluation_batch_is_no_larger_than_one_of_training_by_default(
    tiny: Tiny, tmp_path: Path, flags: tuple[str, ...], size: int
) -> None:
    from slm_train.command_line.parsing import parse_arguments

    assert parse_arguments(tiny.flags(tmp_path, *flags)).training.per_device_eval_batch_size == size
