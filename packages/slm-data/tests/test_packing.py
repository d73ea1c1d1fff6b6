"""Laws of row plans: whatever the packing, nothing is lost, doubled, reordered or too long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_data import PACKINGS, DataError, RowPlan, plan_rows

LENGTHS = st.lists(st.integers(1, 60), min_size=0, max_size=40)
BLOCKS = st.integers(2, 40)


def segments(plan: RowPlan) -> list[tuple[int, int]]:
    return list(zip(plan.start.tolist(), plan.length.tolist(), strict=True))


@pytest.mark.parametrize("packing", PACKINGS)
@given(lengths=LENGTHS, block=BLOCKS, fill=st.sampled_from([0, 0.8, 0.95, 1.0]), seed=st.integers(0, 3))
def test_every_token_leaves_exactly_once_and_no_row_is_longer_than_the_block(
    packing: str, lengths: list[int], block: int, fill: float, seed: int
) -> None:
    plan = plan_rows(lengths, block, packing, fill=fill, seed=seed)
    covered = np.zeros(sum(lengths), int)
    for start, length in segments(plan):
        assert length >= 1
        covered[start : start + length] += 1
    assert (covered == 1).all()
    assert plan.row_lengths.tolist() == [
        sum(plan.length[a:b].tolist()) for a, b in zip(plan.first[:-1], plan.first[1:], strict=True)
    ]
    assert plan.row_lengths.max(initial=0) <= block
    assert plan.predicted_tokens == sum(length - 1 for _, length in segments(plan))


@pytest.mark.parametrize("packing", ["best_fit", "none"])
@given(lengths=LENGTHS, block=BLOCKS, fill=st.sampled_from([0, 0.95]))
def test_no_segment_crosses_from_one_document_into_another(
    packing: str, lengths: list[int], block: int, fill: float
) -> None:
    plan = plan_rows(lengths, block, packing, fill=fill)
    ends = np.cumsum(lengths)
    pieces: dict[int, int] = {}
    for start, length in segments(plan):
        document = int(np.searchsorted(ends, start, side="right"))
        assert start + length <= ends[document]
        pieces[document] = pieces.get(document, 0) + 1
    assert plan.split_documents == sum(count > 1 for count in pieces.values())


@given(lengths=LENGTHS, block=BLOCKS)
def test_a_concatenated_plan_is_the_stream_itself(lengths: list[int], block: int) -> None:
    plan = plan_rows(lengths, block, "concat")
    assert [token for start, n in segments(plan) for token in range(start, start + n)] == list(range(sum(lengths)))
    assert all(n == block for n in plan.row_lengths.tolist()[:-1])


@given(lengths=LENGTHS, block=st.integers(3, 40))
def test_one_document_a_row_in_order_and_no_piece_that_has_nothing_to_predict(lengths: list[int], block: int) -> None:
    plan = plan_rows(lengths, block, "none")
    assert plan.start.tolist() == sorted(plan.start.tolist())
    assert plan.first.tolist() == list(range(len(plan) + 1))
    starts = {end - length for end, length in zip(np.cumsum(lengths).tolist(), lengths, strict=True)}
    lone = [start for start, length in segments(plan) if length == 1 and start not in starts]
    assert lone == []


@given(lengths=st.lists(st.integers(1, 20), max_size=40), block=st.integers(20, 40))
def test_without_a_fill_to_reach_no_document_that_fits_is_cut_and_rows_are_those_of_best_fit_decreasing(
    lengths: list[int], block: int
) -> None:
    plan = plan_rows(lengths, block, "best_fit", fill=0)
    assert plan.split_documents == 0
    assert len(plan) == slow_best_fit_decreasing(lengths, block)


def slow_best_fit_decreasing(lengths: list[int], block: int) -> int:
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms[rooms.index(min(fitting))] -= length
        else:
            rooms.append(block - length)
    return len(rooms)


@given(seed=st.integers(0, 5))
def test_rows_of_stories_are_as_full_as_asked_for(seed: int) -> None:
    lengths = np.random.default_rng(seed).lognormal(5.2, 0.4, 400).astype(int).clip(20, 1200)
    assert plan_rows(lengths, 256, "best_fit", fill=0.95).utilisation >= 0.93
    whole = plan_rows(lengths, 256, "best_fit", fill=0)
    assert whole.split_documents == (lengths > 256).sum()


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_same_seed_gives_the_same_rows(packing: str) -> None:
    lengths = np.random.default_rng(0).integers(5, 300, 200)
    one, two = (plan_rows(lengths, 128, packing, seed=3) for _ in range(2))
    assert segments(one) == segments(two)
    assert one.first.tolist() == two.first.tolist()


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match="--block_size 1"):
        plan_rows([3], 1, "none")
    with pytest.raises(DataError, match="did you mean best_fit"):
        plan_rows([3], 8, "bestfit")
