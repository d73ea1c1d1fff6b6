"""The figures of ``slm-bench kv --engine`` as tables: the ratio first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from slm_bench.comparison import Comparison, Figure, Row, spread
from slm_bench.engine import attention, prefix
from slm_bench.output import heading


@dataclass(frozen=True)
class Speed:
    """One way over one workload. ``ratio``: how many times as fast the engine is, the median, least and largest of
    the turns. ``same``: requests that got the tokens of ``generate`` one by one. ``seconds`` of all turns."""

    way: str
    tokens_per_second: float
    ratio: tuple[float, float, float]
    same: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Answered:
    """One workload by all ways, the engine first."""

    name: str
    description: str
    requests: int
    ways: tuple[Speed, ...]


@dataclass(frozen=True)
class Found:
    """All that one run measured, and what it was run with."""

    setting: dict[str, Any]
    workloads: list[Answered]
    prefix: prefix.Measured
    attention: list[attention.Measured]


def show(found: Found, console: Console) -> None:
    """Print what was measured."""
    print(f"{heading(found.setting)}, medians of {found.setting['rounds']} turns (least to most)")
    for work in found.workloads:
        console.print(_speeds(work))
    print(_known(found.prefix))
    console.print(_sizes(found.attention))


def _speeds(work: Answered) -> Table:
    table = Table(title=f"{work.name}: {work.description}", title_justify="left")
    table.add_column("way")
    for column in ("the engine is", "useful tokens/s", "as generate has it"):
        table.add_column(column, justify="right")
    for way in work.ways:
        ratio = "" if way is work.ways[0] else spread(way.ratio)
        table.add_row(way.way, ratio, f"{way.tokens_per_second:.1f}", f"{way.same} of {work.requests}")
    return table


def _known(found: prefix.Measured) -> str:
    return (
        f"known beginning, {found.known_tokens} of {found.prompt_tokens} tokens: first token {spread(found.ratio)} as "
        f"soon, {found.known.median * 1000:.0f} ms for {found.unknown.median * 1000:.0f} ms; "
        f"same token: {'yes' if found.same_tokens else 'NO'}"
    )


def _sizes(found: list[attention.Measured]) -> Table:
    table = Table(title="attention of a decode step: scattered pages against one piece", title_justify="left")
    for column in ("sequences x tokens", "speed of pages", "pages", "one piece", "largest difference"):
        table.add_column(column, justify="right")
    for size in found:
        table.add_row(
            f"{size.sequences} x {size.tokens}",
            spread(size.ratio),
            f"{size.paged.median * 1e6:.0f} us",
            f"{size.contiguous.median * 1e6:.0f} us",
            f"{size.difference:.0e}",
        )
    return table


def comparisons(found: Found) -> list[Comparison]:
    """What is shown, as every benchmark keeps it."""
    works = [_workload(work) for work in found.workloads]
    return [*works, _prefix(found.prefix), _attention(found.attention)]


def _workload(work: Answered) -> Comparison:
    rows = []
    for way in work.ways:
        figures: dict[str, Figure] = {
            "useful tokens/s": way.tokens_per_second,
            "as generate has it": f"{way.same} of {work.requests}",
        }
        rows.append(Row(way.way, {} if way is work.ways[0] else {"the engine is": way.ratio}, figures))
    return Comparison(f"{work.name}: {work.description}", tuple(rows))


def _prefix(found: prefix.Measured) -> Comparison:
    figures = {
        "first token, ms": found.known.median * 1000,
        "unknown, ms": found.unknown.median * 1000,
        "same token": "yes" if found.same_tokens else "NO",
    }
    known = Row(f"{found.known_tokens} of {found.prompt_tokens} tokens known", {"as soon": found.ratio}, figures)
    return Comparison("first token of a prompt whose beginning is known", (known,))


def _attention(found: list[attention.Measured]) -> Comparison:
    rows = (
        Row(
            f"{size.sequences} x {size.tokens} tokens",
            {"speed / one piece's": size.ratio},
            {
                "pages, us": size.paged.median * 1e6,
                "one piece, us": size.contiguous.median * 1e6,
                "largest difference": f"{size.difference:.0e}",
            },
        )
        for size in found
    )
    return Comparison("attention of a decode step: scattered pages", tuple(rows))
