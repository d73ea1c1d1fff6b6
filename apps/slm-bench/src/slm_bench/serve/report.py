"""The figures of ``slm-bench serve`` as tables: the ratio first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from slm_bench.comparison import Comparison, Row, spread
from slm_bench.output import heading
from slm_bench.promises import Promise
from slm_bench.promises import as_table as as_promises
from slm_bench.sealing import cpu
from slm_bench.serve.disconnects import Disconnects
from slm_bench.serve.overhead import Overhead
from slm_bench.serve.overload import Overload
from slm_bench.serve.sigterm import Sigterm
from slm_bench.serve.throughput import Speed
from slm_bench.serve.vllm_client import Bench


@dataclass
class Found:
    """What one run measured, and what it was run with; empty or None is what was not asked for."""

    setting: dict[str, Any]
    speeds: list[Speed] = field(default_factory=list)
    vllm_client: list[Bench] = field(default_factory=list)
    overhead: Overhead | None = None
    overload: Overload | None = None
    disconnects: Disconnects | None = None
    sigterm: Sigterm | None = None

    @property
    def promises(self) -> list[Promise]:
        """All that was claimed without a tolerance."""
        kept = [one.promise for one in self.vllm_client[:1]]
        for measured in (self.overload, self.disconnects, self.sigterm):
            kept += measured.promises if measured else []
        return kept


def show(found: Found, console: Console) -> None:
    """Print what was measured."""
    setting = found.setting
    print(
        f"{heading(setting)}\n{cpu()}, server on core {setting['server_core']}, load generator on core "
        f"{setting['client_core']}; {setting['requests']} requests a turn, {setting['concurrency']} at once, "
        f"{setting['prompt_tokens']} tokens in and {setting['new_tokens']} out; medians of {setting['rounds']} turns "
        "(least to most)"
    )
    if found.speeds:
        console.print(_speeds(found.speeds))
    if found.vllm_client:
        console.print(_benches(found.vllm_client))
    if found.overhead:
        console.print(_overhead(found.overhead))
    if found.overload:
        print(_overload(found.overload))
    if found.disconnects:
        print("left: " + ", ".join(f"{count} {moment}" for moment, count in sorted(found.disconnects.left.items())))
    if found.promises:
        console.print(as_promises(found.promises))


def _speeds(speeds: Sequence[Speed]) -> Table:
    columns = ("slm-serve is", "tokens/s", "first token p50", "p99", "a token", "tokens/CPU s", "tokens")
    table = _table("throughput", "server", *columns)
    for speed in speeds:
        table.add_row(
            speed.server,
            "" if speed is speeds[0] else spread(speed.ratio),
            f"{speed.tokens_per_second:.1f}",
            _milliseconds(speed.first(50)),
            _milliseconds(speed.first(99)),
            _milliseconds(speed.each()),
            f"{speed.tokens_per_cpu_second:.1f}",
            f"{speed.turns[0].tokens:,}",
        )
    table.caption = f"the load generator took at most {max(speed.client_share for speed in speeds):.0%} of its core"
    return table


def _benches(benches: Sequence[Bench]) -> Table:
    columns = ("slm-serve is", "tokens/s", "first token p50", "p99", "a token")
    table = _table("by vLLM's own load generator, vllm bench serve", "server", *columns)
    for bench in benches:
        table.add_row(
            bench.server,
            "" if bench is benches[0] else spread(bench.ratio),
            f"{bench.median('tokens_per_second'):.1f}",
            *(_milliseconds(bench.median(name)) for name in ("first_median", "first_p99", "each_median")),
        )
    return table


def _overhead(found: Overhead) -> Table:
    columns = ("of the engine's speed", "tokens/s", "by CPU seconds", "tokens/CPU s")
    table = _table("what HTTP costs", "way", *columns)
    for way in found.ways:
        alone = way is found.ways[-1]
        table.add_row(
            way.name,
            "" if alone else spread(way.ratio),
            f"{found.tokens / way.seconds.median:.1f}",
            "" if alone else spread(way.cpu_ratio),
            f"{found.tokens / way.cpu.median:.1f}",
        )
    return table


def _overload(found: Overload) -> str:
    return (
        f"overload, {found.clients} clients for {found.seconds:.0f} s: {len(found.accepted):,} accepted, "
        f"{found.median:.1f} s in the median, p99 {found.p99:.1f} s; memory {found.rss_before / 1e6:.0f} MB before, "
        f"{found.rss_after / 1e6:.0f} MB after"
    )


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def comparisons(found: Found) -> list[Comparison]:
    """The tables, as every benchmark keeps them."""
    tables = [_throughput(found.speeds)] if found.speeds else []
    tables += [_by_vllm(found.vllm_client)] if found.vllm_client else []
    return [*tables, *([_http(found.overhead)] if found.overhead else [])]


def _throughput(speeds: Sequence[Speed]) -> Comparison:
    rows = (
        Row(
            speed.server,
            {} if speed is speeds[0] else {"slm-serve is": speed.ratio},
            {
                "tokens/s": speed.tokens_per_second,
                "first token p50, ms": speed.first(50) * 1000,
                "p99, ms": speed.first(99) * 1000,
                "a token, ms": speed.each() * 1000,
                "tokens/CPU s": speed.tokens_per_cpu_second,
            },
        )
        for speed in speeds
    )
    return Comparison("throughput", tuple(rows))


def _by_vllm(benches: Sequence[Bench]) -> Comparison:
    rows = (
        Row(
            bench.server,
            {} if bench is benches[0] else {"slm-serve is": bench.ratio},
            {
                "tokens/s": bench.median("tokens_per_second"),
                "first token p50, ms": bench.median("first_median") * 1000,
                "p99, ms": bench.median("first_p99") * 1000,
                "a token, ms": bench.median("each_median") * 1000,
            },
        )
        for bench in benches
    )
    return Comparison("by vLLM's own load generator", tuple(rows))


def _http(found: Overhead) -> Comparison:
    rows = []
    for way in found.ways:
        ratios = {"of the engine's speed": way.ratio, "by CPU seconds": way.cpu_ratio}
        figures = {"tokens/s": found.tokens / way.seconds.median, "tokens/CPU s": found.tokens / way.cpu.median}
        rows.append(Row(way.name, {} if way is found.ways[-1] else ratios, figures))
    return Comparison("what HTTP costs", tuple(rows))
