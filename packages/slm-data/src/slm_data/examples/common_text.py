"""Common beginnings and ends of two texts."""

from __future__ import annotations


def common_prefix(first: str, second: str) -> int:
    """Return the number of characters that both texts begin with."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # bisection: comparing slices is much faster than comparing characters
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_suffix(first: str, second: str) -> int:
    """Return the number of characters that both texts end with."""
    return common_prefix(first[::-1], second[::-1])
