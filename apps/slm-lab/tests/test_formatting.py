"""Bytes, durations and percentages as text."""

from __future__ import annotations

import pytest

from slm_lab.formatting import format_bytes, format_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_bytes(999), "999 B"),
        (format_bytes(1500), "1.50 kB"),
        (format_bytes(65_432_100), "65.4 MB"),
        (format_bytes(999_600), "1,000 kB"),
        (format_bytes(2.5e9), "2.50 GB"),
        (format_duration(5), "5.0 s"),
        (format_duration(600), "10.0 min"),
        (format_duration(7200), "2.0 h"),
    ],
)
def test_sizes_and_times_have_readable_units(text: str, expected: str) -> None:
    assert text == expected
