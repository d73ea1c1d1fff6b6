"""Invariants of row plans, for every packing."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slm_data.errors import DataError
from slm_data.rows.best_fit import MIN_PIECE
from slm_data.rows.collation import IGNORE_INDEX, RowCollator
from slm_data.rows.dataset import cut_row
from slm_data.rows.packing import RowPlan, plan_rows
from slm_data.rows.packing_names import PACKINGS, Packing, as_packing

Corpus = list[int]

corpora = st.lists(st.integers(1, 60), max_size=20)
blocks = st.integers(2, 30)
fills = st.sampled_from([0, 0.3, 0.8, 0.95, 1])
packings = pytest.mark.parametrize("packing", PACKINGS)


def stream(lengths: Corpus) -> npt.NDArray[np.uint32]:
    """A corpus of distinct tokens."""
    return np.arange(sum(lengths), dtype=np.uint32)


def rows_of(plan: RowPlan, lengths: Corpus) -> list[list[list[int]]]:
    """The tokens of each segment of each row, as a trainer gets them."""
    cut = [cut_row(stream(lengths), plan, row) for row in range(len(plan))]
    return [[part.tolist() for part in np.split(row.input_ids, np.cumsum(row.segments)[:-1])] for row in cut]


def owners(lengths: Corpus) -> list[int]:
    """The document of each token."""
    return [document for document, length in enumerate(lengths) for _ in range(length)]


def reference_best_fit(pieces: list[int], block: int) -> list[int]:
    """Textbook best-fit-decreasing: the tokens in each row, sorted."""
    rows: list[int] = []
    for piece in sorted(pieces, reverse=True):
        fitting = [row for row in range(len(rows)) if rows[row] + piece <= block]
        if fitting:
            rows[max(fitting, key=lambda row: rows[row])] += piece
        else:
            rows.append(piece)
    return sorted(rows)


@packings
@given(corpora, blocks, fills)
@example([], 8, 0.95)
@example([1], 2, 0.95)
@example([8, 8, 8], 8, 0.95)
@example([17, 9, 1, 8], 8, 1)
@example([3, 2, 1], 2, 0.95)
def test_every_token_occurs_exactly_once_and_segments_are_runs_of_the_stream(
    packing: Packing, lengths: Corpus, block: int, fill: float
) -> None:
    plan = plan_rows(lengths, block, packing, fill=fill)
    segments = [segment for row in rows_of(plan, lengths) for segment in row]
    assert sorted(token for segment in segments for token in segment) == stream(lengths).tolist()
    assert all(segment == list(range(segment[0], segment[-1] + 1)) for segment in segments)
    assert plan.tokens == sum(lengths)


@packings
@given(corpora, blocks, fills)
def test_no_row_is_empty_or_longer_than_the_block(packing: Packing, lengths: Corpus, block: int, fill: float) -> None:
    plan = plan_rows(lengths, block, packing, fill=fill)
    sizes = [sum(map(len, row)) for row in rows_of(plan, lengths)]
    assert all(0 < size <= block for size in sizes)
    assert plan.row_lengths.tolist() == sizes
    assert plan.utilisation == pytest.approx(sum(lengths) / max(1, len(sizes) * block))


@given(corpora, blocks)
def test_concat_is_the_stream_itself(lengths: Corpus, block: int) -> None:
    rows = rows_of(plan_rows(lengths, block, "concat"), lengths)
    assert [token for row in rows for segment in row for token in segment] == stream(lengths).tolist()
    assert all(len(row) == 1 for row in rows)
    assert len(rows) == -(-sum(lengths) // block)
    assert all(len(row[0]) == block for row in rows[:-2])


@given(corpora, blocks)
def test_none_keeps_documents_in_order_one_piece_per_row(lengths: Corpus, block: int) -> None:
    rows = rows_of(plan_rows(lengths, block, "none"), lengths)
    assert [token for row in rows for segment in row for token in segment] == stream(lengths).tolist()
    assert all(len(row) == 1 for row in rows)
    assert len(rows) == sum(-(-length // block) for length in lengths)


@pytest.mark.parametrize("packing", ["best_fit", "none"])
@given(corpora, blocks, fills)
def test_no_segment_contains_tokens_of_two_documents(
    packing: Packing, lengths: Corpus, block: int, fill: float
) -> None:
    owner = owners(lengths)
    for row in rows_of(plan_rows(lengths, block, packing, fill=fill), lengths):
        assert all(owner[segment[0]] == owner[segment[-1]] for segment in row)


@packings
@given(corpora, blocks, fills)
def test_split_documents_are_those_whose_tokens_are_in_more_than_one_segment(
    packing: Packing, lengths: Corpus, block: int, fill: float
) -> None:
    plan, owner = plan_rows(lengths, block, packing, fill=fill), owners(lengths)
    seen = [{owner[token] for token in segment} for row in rows_of(plan, lengths) for segment in row]
    split = sum(sum(document in documents for documents in seen) > 1 for document in range(len(lengths)))
    assert plan.split_documents == split


@packings
@given(corpora, st.integers(3, 30), fills)
@example([5], 4, 0.95)
@example([9, 8, 8], 8, 0.95)
def test_no_document_is_split_into_a_segment_with_nothing_to_predict(
    packing: Packing, lengths: Corpus, block: int, fill: float
) -> None:
    rows = rows_of(plan_rows(lengths, block, packing, fill=fill), lengths)
    singles = sum(len(segment) == 1 for row in rows for segment in row)
    assert singles == (sum(lengths) == 1 if packing == "concat" else lengths.count(1))


@packings
@given(corpora, blocks, fills)
def test_predicted_tokens_are_the_labels_of_the_batches(
    packing: Packing, lengths: Corpus, block: int, fill: float
) -> None:
    plan = plan_rows(lengths, block, packing, fill=fill)
    collate = RowCollator(0, packing == "best_fit")
    rows = [cut_row(stream(lengths), plan, row) for row in range(len(plan))]
    assert plan.predicted_tokens == (int((collate(rows)["labels"] != IGNORE_INDEX).sum()) if rows else 0)


@packings
@given(corpora, blocks, fills, st.integers(0, 5))
def test_the_same_seed_gives_the_same_rows(
    packing: Packing, lengths: Corpus, block: int, fill: float, seed: int
) -> None:
    once, again = (plan_rows(lengths, block, packing, fill=fill, seed=seed) for _ in range(2))
    for part in ("first", "start", "length"):
        assert getattr(once, part).tolist() == getattr(again, part).tolist()


def test_another_seed_puts_other_documents_side_by_side() -> None:
    lengths = [7, 5, 3] * 20
    first, second = (rows_of(plan_rows(lengths, 16, "best_fit", seed=seed), lengths) for seed in (1, 2))
    assert first != second
    assert sorted(sum(sum(first, []), [])) == sorted(sum(sum(second, []), []))


@given(corpora, blocks)
def test_best_fit_without_a_fill_keeps_whole_what_fits(lengths: Corpus, block: int) -> None:
    plan = plan_rows(lengths, block, "best_fit", fill=0)
    segments = {(segment[0], len(segment)) for row in rows_of(plan, lengths) for segment in row}
    starts = np.cumsum([0, *lengths]).tolist()
    assert {(at, n) for at, n in zip(starts, lengths, strict=False) if n <= block} <= segments
    assert plan.split_documents == sum(length > block for length in lengths)


@given(corpora, blocks)
def test_best_fit_fills_rows_like_the_textbook_algorithm(lengths: Corpus, block: int) -> None:
    plan = plan_rows(lengths, block, "best_fit", fill=0)
    pieces = plan_rows(lengths, block, "none").length.tolist()
    assert sorted(plan.row_lengths.tolist()) == reference_best_fit(pieces, block)


@given(corpora, blocks, fills)
def test_no_two_rows_of_best_fit_would_fit_into_one(lengths: Corpus, block: int, fill: float) -> None:
    fullness = sorted(plan_rows(lengths, block, "best_fit", fill=fill).row_lengths.tolist())
    assert len(fullness) < 2 or sum(fullness[:2]) > block


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(2, 128), st.sampled_from([0.3, 0.8, 0.95, 1]))
def test_best_fit_reaches_its_fill_until_only_tiny_gaps_are_left(lengths: Corpus, block: int, fill: float) -> None:
    plan = plan_rows(lengths, block, "best_fit", fill=fill)
    enough = -(-sum(lengths) // max(1, int(block * fill)))
    full_enough = (len(plan) - 1) * (block - MIN_PIECE + 1)
    assert len(plan) <= enough or sum(lengths) > full_enough


def test_best_fit_reaches_its_fill_on_documents_of_all_lengths() -> None:
    lengths = np.random.default_rng(0).normal(180, 30, 3000).astype(int)
    whole = plan_rows(lengths, 256, "best_fit", fill=0)
    filled = plan_rows(lengths, 256, "best_fit", fill=0.95)
    assert whole.utilisation < 0.8
    assert filled.utilisation > 0.948
    assert whole.split_documents < filled.split_documents < len(lengths) / 2


@packings
def test_an_empty_corpus_has_no_rows(packing: Packing) -> None:
    plan = plan_rows([], 8, packing)
    assert (len(plan), plan.tokens, plan.predicted_tokens, plan.split_documents) == (0, 0, 0, 0)
    assert plan.row_lengths.tolist() == []


@packings
def test_documents_of_block_length_are_rows_of_their_own(packing: Packing) -> None:
    plan = plan_rows([8] * 5, 8, packing)
    assert plan.row_lengths.tolist() == [8] * 5
    assert (plan.utilisation, plan.split_documents) == (1, 0)


@packings
def test_a_block_with_nothing_to_predict_is_refused(packing: Packing) -> None:
    with pytest.raises(DataError, match=r"--block_size 1 .* use 2 or more"):
        plan_rows([5], 1, packing)


def test_an_unknown_packing_is_refused_with_a_suggestion() -> None:
    with pytest.raises(DataError, match=r"'bestfit'; did you mean best_fit\? choose from concat, best_fit, none"):
        as_packing("bestfit")
    with pytest.raises(DataError, match="unknown packing"):
        plan_rows([5], 8, "zzz")  # type: ignore[arg-type]
