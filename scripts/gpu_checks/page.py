"""The page docs/gpu.md: a verdict on each claim, and the figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gpu_checks.registry import Part
from gpu_checks.results import PartResult, Table

NOT_RUN = "not yet run"
INTRODUCTION = """\
# On a GPU

What the project claims for GPUs, and whether a GPU has confirmed it. `scripts/gpu_check` checks each claim below on one
GPU in at most eight minutes; this page is rendered from its results
([how to run it](../CONTRIBUTING.md#on-a-gpu)). A claim without a verdict is what the code is written to do, no more.
"""


def render(parts: Sequence[Part], results: Mapping[str, PartResult]) -> str:
    """Return the page about the results of ``parts``, by name; parts without a result have not been run."""
    sections = [INTRODUCTION, _summary(parts, results), _verdicts(parts, results)]
    sections += [_figures(part, results[part.name]) for part in parts if part.name in results]
    return "\n".join(section for section in sections if section)


def verdict(claim: str, result: PartResult | None) -> tuple[str, str]:
    """Return the verdict on a claim, and what was observed or why there is none."""
    if result is None:
        return NOT_RUN, ""
    known = result.claims.get(claim)
    if known is not None:
        return known.verdict, known.observed
    if result.status == "skipped":
        return "skipped", result.reason
    return "failed", f"not reached: {result.reason}"


def _summary(parts: Sequence[Part], results: Mapping[str, PartResult]) -> str:
    if not results:
        return "**Not yet run: no GPU has run this project.**\n"
    verdicts = [verdict(claim, results.get(part.name))[0] for part in parts for claim in part.claims]
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(sorted(verdicts)))
    lines = [f"**{len(verdicts)} claims: {counts}.**", ""]
    if any(result.small for result in results.values()):
        lines += ["These results are from small sizes (`--small`): they say nothing about speed.", ""]
    facts: dict[str, dict[str, None]] = {}
    for result in results.values():
        for name, value in result.provenance.items():
            facts.setdefault(name, {})[value[:10] if name == "when" else value] = None
    lines += [*_table(["", ""], [[name, ", ".join(values)] for name, values in facts.items()]), ""]
    return "\n".join(lines)


def _verdicts(parts: Sequence[Part], results: Mapping[str, PartResult]) -> str:
    lines = ["## Claims", ""]
    rows = [
        [part.title if not index else "", text, _emphasized(word), observed]
        for part in parts
        for index, (key, text) in enumerate(part.claims.items())
        for word, observed in [verdict(key, results.get(part.name))]
    ]
    return "\n".join([*lines, *_table(["part", "claim", "verdict", "observed"], rows), ""])


def _figures(part: Part, result: PartResult) -> str:
    if not result.tables and not result.reason:
        return ""
    lines = [f"## {part.title}", "", f"{result.status} after {result.seconds:g} s{_reason(result)}", ""]
    for table in result.tables:
        lines += _titled(table)
    return "\n".join(lines)


def _reason(result: PartResult) -> str:
    return f": {_cell(result.reason)}" if result.reason else ""


def _titled(table: Table) -> Iterator[str]:
    yield from (f"**{table.title}**", "", *_table(table.columns, table.rows), "")
    if table.note:
        yield from (table.note, "")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_cell, cells))} |".replace("|  |", "| |")

    are_numbers = [index > 0 and _are_numbers(row[index] for row in rows) for index in range(len(columns))]
    alignment = ["---:" if each else "---" for each in are_numbers]
    return [line(columns), f"|{'|'.join(alignment)}|", *map(line, rows)]


def _are_numbers(cells: Iterator[str]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(cell[0].isdigit() for cell in filled)


def _emphasized(word: str) -> str:
    return f"**{word}**" if word == "failed" else word


def _cell(text: str) -> str:
    """Return text that stays within a cell of a table, and shows as it is."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
