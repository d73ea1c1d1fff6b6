"""``slm-lab doctor``: run all checks and print them."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slm_lab.console import new_console
from slm_lab.doctor.check import Check, CheckState, run_check

COLORS: dict[CheckState, str] = {"works": "green", "limited": "yellow", "missing": "yellow", "broken": "bold red"}


def doctor(arguments: argparse.Namespace) -> int:
    """Run the checks and print them. Returns 1 if something essential is broken, else 0."""
    checks = [*run_all_checks()]
    if arguments.json:
        print(json.dumps([_check_json(check) for check in checks], indent=2))
    else:
        _print_table(checks, new_console())
    return 1 if any(check.state == "broken" for check in checks) else 0


def run_all_checks() -> Iterator[Check]:
    """Run the checks, those of the machine first. If torch cannot be imported, the others are left out."""
    from slm_lab.doctor import machine

    yield Check("Python", "works", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield run_check("memory", machine.check_memory)
    yield run_check("cores", machine.check_cores)
    yield run_check("disk", lambda: machine.check_disk(Path("outputs")))
    try:
        checks = _checks_with_torch()
    except Exception as error:  # a damaged installation can fail in any way
        detail = f"torch, transformers, peft or one of their dependencies cannot be imported: {error}"
        yield Check("libraries", "broken", detail, "reinstall them with uv sync")
        return
    for name, check in checks.items():
        yield run_check(name, check)


def _checks_with_torch() -> dict[str, Callable[[], Check]]:
    from slm_lab.doctor import compute, hub, libraries

    return {
        "versions": libraries.check_versions,
        "device": compute.check_device,
        "bfloat16": compute.check_bfloat16,
        "instructions": compute.check_instructions,
        "threads": compute.check_threads,
        "Triton": compute.check_triton,
        "bitsandbytes": libraries.check_bitsandbytes,
        "vLLM": libraries.check_vllm,
        "hub": hub.check_hub,
        "hub cache": hub.check_hub_cache,
        "token cache": hub.check_token_cache,
    }


def _check_json(check: Check) -> dict[str, str]:
    # The keys are part of the format and independent of the names in the code.
    return {"name": check.name, "state": check.state, "found": check.detail, "advice": check.advice}


def _print_table(checks: Sequence[Check], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in checks:
        advice = f"\n[dim]→ {escape(check.advice)}[/]" if check.advice else ""
        color = COLORS[check.state]
        table.add_row(check.name, f"[{color}]{check.state}[/]", f"{escape(check.detail)}{advice}")
    console.print(table)
