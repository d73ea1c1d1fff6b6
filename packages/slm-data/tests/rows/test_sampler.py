"""The order of rows in an epoch."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_data.rows.sampler import RowSampler


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(0, 20), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_contains_every_row_once(lengths: list[int], group: int, seed: int, epoch: int) -> None:
    sampler = RowSampler(lengths, seed=seed, group=group)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)


@pytest.mark.parametrize("group", [0, 8])
def test_the_order_is_a_function_of_seed_and_epoch_alone(group: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 200)

    def order(seed: int, epoch: int) -> list[int]:
        sampler = RowSampler(lengths, seed=seed, group=group)
        list(sampler)  # an earlier epoch must not matter
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_grouping_by_length_leaves_little_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.7, 4000).astype(int) + 1
    assert utilisation(lengths, group=0) < 0.5
    assert utilisation(lengths, group=16) > 0.9


def utilisation(lengths: Any, group: int) -> float:
    order = np.array(list(RowSampler(lengths, seed=0, group=group)))
    return float(lengths.sum() / (16 * lengths[order.reshape(-1, 16)].max(axis=1)).sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_first_batch_is_the_one_that_needs_most_memory(seed: int) -> None:
    lengths = np.random.default_rng(seed).lognormal(4, 1.5, 1600).astype(int) + 1  # two windows of groups of 16
    order = np.array(list(RowSampler(lengths, seed=seed, group=16)))
    assert lengths[order[:16]].max() == lengths.max()


def test_groups_other_than_the_first_are_in_no_order_of_length() -> None:
    lengths = np.arange(1, 1601)
    order = np.array(list(RowSampler(lengths, seed=0, group=16))).reshape(-1, 16)
    sums = lengths[order][1:].sum(axis=1)
    assert 30 < (np.diff(sums) < 0).sum() < 70
