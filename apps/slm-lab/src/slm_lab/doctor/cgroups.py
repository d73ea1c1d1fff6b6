"""Memory and CPU limits that Linux control groups (cgroups v1 and v2) set for this process, as in a container."""

from __future__ import annotations

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def memory_limit(cgroup: Path = CGROUP) -> int | None:
    """Return the memory limit in bytes; None if there is none."""
    return _first_number(cgroup, "memory.max", "memory/memory.limit_in_bytes")


def memory_used(cgroup: Path = CGROUP) -> int | None:
    """Return the memory in use, in bytes; None if it is unknown."""
    return _first_number(cgroup, "memory.current", "memory/memory.usage_in_bytes")


def core_limit(cgroup: Path = CGROUP) -> float | None:
    """Return the CPU time limit, in cores (1.5 means 1.5 seconds of CPU time per second); None if there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):  # no cgroups v2
        quota_us, period_us = (_read_number(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        # Version 1 writes a quota of -1 for no limit.
        return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _first_number(cgroup: Path, version_2: str, version_1: str) -> int | None:
    numbers = (_read_number(cgroup / name) for name in (version_2, version_1))
    return next((number for number in numbers if number is not None), None)


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # missing, or "max"
        return None
