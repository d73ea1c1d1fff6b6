"""Rows of tokens of which some have no loss."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_data.errors import DataError
from slm_data.rows.budget import TokenBudget
from slm_data.rows.budget_planning import plan_budget
from slm_data.rows.collation import IGNORE_INDEX, RowCollator
from slm_data.rows.dataset import cut_row
from slm_data.rows.long_rows import LongRows
from slm_data.rows.packing import RowPlan, plan_rows
from slm_data.rows.packing_names import PACKINGS, Packing

Masks = list[list[bool]]  # of each document
masks = st.lists(st.lists(st.booleans(), min_size=1, max_size=40), min_size=1, max_size=12)
blocks = st.integers(2, 24)
packings = pytest.mark.parametrize("packing", PACKINGS)


def plan_of(documents: Masks, block: int, packing: Packing, long_rows: LongRows = "split") -> RowPlan:
    lengths, scored = [len(mask) for mask in documents], flat(documents)
    return plan_rows(lengths, block, packing, fill=0.9, scored=scored, long_rows=long_rows)


def flat(documents: Masks) -> npt.NDArray[np.bool_]:
    return np.array([value for mask in documents for value in mask], np.bool_)


def labels_of(documents: Masks, plan: RowPlan) -> list[list[int]]:
    """The tokens that have a loss in each row, as a trainer gets them; a token's id is its position in the corpus."""
    scored = flat(documents)
    tokens = np.arange(len(scored), dtype=np.uint32)
    rows = [cut_row(tokens, plan, row, scored) for row in range(len(plan))]
    collate = RowCollator(pad_token_id=0, packed=True)
    return [[label for label in collate([row])["labels"][0].tolist() if label != IGNORE_INDEX] for row in rows]


@packings
@given(masks, blocks)
def test_only_scored_tokens_have_labels_each_once_and_no_row_is_without(
    packing: Packing, documents: Masks, block: int
) -> None:
    plan = plan_of(documents, block, packing)
    labels = labels_of(documents, plan)
    assert all(labels)
    assert [len(row) for row in labels] == plan.predicted.tolist()
    assert plan.predicted_tokens == sum(map(len, labels))
    counts = Counter(label for row in labels for label in row)
    assert set(counts.values()) <= {1}
    assert set(counts) <= set(np.flatnonzero(flat(documents)).tolist())


@pytest.mark.parametrize("packing", ["none", "best_fit"])
@given(masks, blocks)
def test_only_the_first_token_of_a_piece_loses_its_label(packing: Packing, documents: Masks, block: int) -> None:
    plan = plan_of(documents, block, packing)
    scored, lost = flat(documents), set()
    kept = {label for row in labels_of(documents, plan) for label in row}
    lost = set(np.flatnonzero(scored).tolist()) - kept
    pieces = plan_rows([len(mask) for mask in documents], block, "none").start.tolist()
    assert lost <= {*plan.start.tolist(), *pieces}


@given(masks, blocks)
def test_a_cut_document_is_its_beginning_and_a_dropped_one_is_left_out(documents: Masks, block: int) -> None:
    starts = np.cumsum([0, *map(len, documents)]).tolist()
    cut = plan_of(documents, block, "none", "cut")
    assert all(length <= block for length in cut.length)
    assert set(cut.start.tolist()) <= set(starts)
    long = sum(len(mask) > block for mask in documents)
    assert cut.long_documents == long
    dropped = plan_of(documents, block, "none", "drop")
    short = [mask for mask in documents if len(mask) <= block]
    assert dropped.length.tolist() == [len(mask) for mask in short if any(mask[1:])]
    assert dropped.unscored_rows == len(short) - len(dropped)


def test_documents_cannot_be_cut_out_of_one_stream() -> None:
    with pytest.raises(DataError, match="--long_rows cut does not work with --packing concat"):
        plan_of([[True] * 9], 4, "concat", "cut")


@given(masks, blocks, st.integers(1, 40))
def test_the_token_budget_counts_scored_tokens(documents: Masks, block: int, budget: int) -> None:
    rows = plan_of(documents, block, "none")
    if not len(rows):
        return
    plan = plan_budget(rows, TokenBudget(budget, 4 * block), seed=0)
    labels = [len(row) for row in labels_of(documents, rows)]
    assert plan.tokens.tolist() == [
        sum(labels[row] for batch in plan.micro_batches(step) for row in batch) for step in range(len(plan))
    ]
    assert sorted(plan.rows.tolist()) == list(range(len(rows)))
