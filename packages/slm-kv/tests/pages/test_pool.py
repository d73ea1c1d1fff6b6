"""Allocation of pages, by example."""

import pytest

from slm_kv.errors import KVError, PoolFull
from slm_kv.pages.block_table import BlockTable
from slm_kv.pages.pool import PagePool


def filled(pool: PagePool, token_ids: list[int], root: bytes = b"") -> BlockTable:
    """A table in which ``token_ids`` have been written."""
    table = pool.open(token_ids, root)
    rest = token_ids[table.length :]
    pool.reserve(table, len(rest))
    pool.commit(table, rest)
    return table


@pytest.mark.parametrize("sizes", [(0, 4), (-1, 4), (4, 0), (True, 4), (4.0, 4)])
def test_an_invalid_size_is_named_in_the_error(sizes: tuple[int, int]) -> None:
    with pytest.raises(KVError, match=r"(page_size|max_pages)=.* is not a whole number of at least 1"):
        PagePool(*sizes)


def test_cached_prefix_counts_reusable_tokens_without_holding_pages() -> None:
    pool = PagePool(2, 3)
    pool.release(filled(pool, [1, 2, 3, 4]))
    assert [pool.cached_prefix(ids) for ids in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [])] == [2, 4, 0]
    assert pool.cached_prefix([1, 2, 3], b"other") == 0
    assert (pool.used_pages, pool.cached_pages) == (0, 2)


def test_a_page_computed_by_two_tables_is_known_once() -> None:
    pool = PagePool(2, 4)
    first, second = pool.open([1, 2, 3]), pool.open([1, 2, 3])
    for table in (first, second):
        pool.reserve(table, 3)
        pool.commit(table, [1, 2, 3])
    pool.release(second)
    assert pool.cached_pages == 0
    pool.release(first)
    assert (pool.cached_pages, pool.free_pages) == (1, 4)
    pool.check_integrity()


def test_a_reservation_that_does_not_fit_changes_nothing() -> None:
    pool = PagePool(4, 3)
    table = filled(pool, [1, 2, 3, 4, 5])
    with pytest.raises(PoolFull, match="pages needed: 2, pages free: 1 of max_pages=3"):
        pool.reserve(table, 9)
    assert (len(table.pages), pool.free_pages) == (2, 1)
    pool.check_integrity()


def test_a_fully_known_prompt_still_leaves_a_token_to_compute() -> None:
    pool = PagePool(4, 8)
    pool.release(filled(pool, list(range(8))))
    assert pool.open(list(range(8))).length == 4
    assert pool.open(list(range(9))).length == 8


def test_a_prefix_is_found_only_from_its_beginning_and_under_its_own_weights() -> None:
    pool = PagePool(2, 8)
    pool.release(filled(pool, [1, 2, 3, 4, 5], b"weights"))
    assert pool.open([1, 2, 3, 4, 5], b"weights").length == 4
    assert pool.open([1, 2, 9, 9, 5], b"weights").length == 2
    assert pool.open([9, 9, 3, 4, 5], b"weights").length == 0
    assert pool.open([1, 2, 3, 4, 5], b"retrained").length == 0


def test_without_prefix_caching_released_pages_are_free() -> None:
    pool = PagePool(2, 4, prefix_caching=False)
    pool.release(filled(pool, [1, 2, 3, 4]))
    assert (pool.cached_pages, pool.free_pages, pool.open([1, 2, 3, 4, 5]).length) == (0, 4, 0)


def test_free_pages_are_allocated_first_and_then_the_least_recently_used_known_page() -> None:
    pool = PagePool(2, 5)
    for prompt in ([1, 1], [2, 2], [3, 3]):
        pool.release(filled(pool, prompt))
    pool.release(pool.open([1, 1, 0]))  # used again
    new_table = pool.open()
    pool.reserve(new_table, 6)  # takes two free pages and a known one
    assert [pool.open([n, n, 0]).length for n in (1, 2, 3)] == [2, 0, 2]
    pool.check_integrity()


def test_the_end_of_a_released_prompt_is_evicted_before_its_beginning() -> None:
    pool = PagePool(1, 3)
    pool.release(filled(pool, [7, 8, 9]))
    pool.reserve(pool.open(), 1)
    assert pool.open([7, 8, 9, 0]).length == 2


def test_a_fork_shares_pages_until_one_table_writes_and_the_other_writes_in_place() -> None:
    pool = PagePool(4, 8)
    first = filled(pool, [1, 2, 3, 4, 5])
    second = pool.fork(first)
    assert pool.used_pages == 2
    (copy,) = pool.reserve(first, 1)
    assert copy.source == second.pages[1]
    assert copy.target == first.pages[1] != second.pages[1]
    assert first.pages[0] == second.pages[0]
    assert pool.reserve(second, 1) == []
    pool.check_integrity()


def test_a_fork_at_the_end_of_a_page_copies_nothing() -> None:
    pool = PagePool(2, 8)
    first = filled(pool, [1, 2])
    second = pool.fork(first)
    assert pool.reserve(first, 1) == pool.reserve(second, 1) == []
    assert first.pages[1] != second.pages[1]


def test_a_known_page_that_is_written_to_is_no_longer_known() -> None:
    pool = PagePool(2, 8)
    table = filled(pool, [1, 2, 3, 4])
    pool.truncate(table, 3)
    pool.reserve(table, 1)
    pool.commit(table, [9])
    assert pool.open([1, 2, 3, 4, 0]).length == 2
    pool.check_integrity()


def test_pages_after_a_dropped_page_are_never_known() -> None:
    pool = PagePool(2, 8)
    table = filled(pool, [1, 2, 3, 4, 5])
    pool.drop(table, 1, 1)
    pool.reserve(table, 1)
    pool.commit(table, [6])
    pool.release(table)
    assert pool.open([1, 2, 5, 6, 0]).length == 2
    assert pool.open([5, 6, 0]).length == 0
    pool.check_integrity()


def test_the_last_of_several_dropped_pages_is_evicted_first() -> None:
    pool = PagePool(1, 3)
    table = filled(pool, [7, 8, 9])
    pool.drop(table, 0, 3)
    pool.reserve(table, 1)
    assert pool.cached_prefix([7, 8, 9, 0]) == 2


def test_truncating_releases_pages_that_were_reserved_and_not_used() -> None:
    pool = PagePool(2, 4)
    table = pool.open()
    pool.reserve(table, 7)
    pool.commit(table, [1])
    pool.truncate(table, 1)
    assert (len(table.pages), pool.free_pages) == (1, 3)


def test_slots_of_a_shared_page_count_once() -> None:
    pool = PagePool(4, 8)
    first = filled(pool, [1, 2, 3, 4, 5])
    pool.fork(first)
    assert (pool.used_pages, pool.filled_slots, pool.used_slots) == (2, 5, 8)


def test_after_clearing_the_cache_no_prefix_is_known() -> None:
    pool = PagePool(2, 8)
    pool.release(filled(pool, [1, 2]))
    open_table = filled(pool, [3, 4])
    pool.clear_cache()
    pool.release(open_table)
    assert (pool.open([1, 2, 0]).length, pool.open([3, 4, 0]).length, pool.cached_pages) == (0, 0, 0)
    pool.check_integrity()


def test_committing_to_a_shared_page_is_an_assertion_error() -> None:
    pool = PagePool(2, 8)
    table = filled(pool, [1, 2, 3])
    forked = pool.fork(table)
    with pytest.raises(AssertionError, match="commit without reserve"):
        pool.commit(forked, [4])
    with pytest.raises(AssertionError, match="more than was reserved"):
        pool.commit(forked, [4, 5])
    pool.release(forked)
    pool.truncate(table, 1)
    with pytest.raises(AssertionError, match="commit without reserve"):
        pool.commit(table, [9])  # the page of tokens 1 and 2 is still known


def test_using_a_closed_table_is_an_assertion_error() -> None:
    pool = PagePool(2, 8)
    table = filled(pool, [1])
    pool.release(table)
    with pytest.raises(AssertionError, match="closed"):
        pool.release(table)


def test_pages_become_known_with_the_next_verified_commit() -> None:
    pool = PagePool(page_size=2, max_pages=8)
    table = pool.open()
    pool.reserve(table, 5)
    pool.commit(table, [1, 2, 3, 4, 5], verified=False)
    assert pool.cached_prefix([1, 2, 3, 4, 5]) == 0
    pool.truncate(table, 3)
    pool.commit(table, ())
    assert pool.cached_prefix([1, 2, 3, 4, 5]) == 2
    other = pool.open()
    pool.reserve(other, 2)
    pool.commit(other, [7, 8], verified=False)
    pool.release(other)
    assert pool.cached_prefix([7, 8, 9]) == 0
    pool.check_integrity()
