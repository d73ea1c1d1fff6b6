"""The figures of ``slm-bench serve`` as tables: the ratio first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from slm_bench.engine.report import spread
from slm_bench.output import heading
from slm_bench.serve.disconnects import Disconnects
from slm_bench.serve.overhead import Overhead
from slm_bench.serve.overload import Overload
from slm_bench.serve.promises import Promise
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
        f"{heading(setting)}\n{setting['cpu']}, server on core {setting['server_core']}, load generator on core "
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
        console.print(_promises(found.promises))


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


def _promises(promises: Sequence[Promise]) -> Table:
    table = Table(title="promises", title_justify="left")
    for column in ("", "promise", "seen"):
        table.add_column(column)
    for promise in promises:
        table.add_row("kept" if promise.held else "BROKEN", promise.says, promise.seen)
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"
