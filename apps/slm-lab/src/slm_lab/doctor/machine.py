"""The machine itself: memory, cores, instructions, disk."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import psutil

from slm_lab.doctor.check import Check
from slm_lab.figures import size

CGROUP = Path("/sys/fs/cgroup")
LITTLE_MEMORY, LITTLE_DISK = 2e9, 5e9


def memory(cgroup: Path = CGROUP) -> Check:
    """Of the machine, or as much as its container may have."""
    whole, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    limit = memory_limit(cgroup)
    room, of = free, size(whole)
    if limit is not None and limit < whole:
        room = min(free, max(0, limit - (_memory_used(cgroup) or 0)))
        of = f"{size(limit)} that this container may have, of {of} in the machine"
    found = f"{size(room)} free of {of}"
    if room < LITTLE_MEMORY:
        advice = "close other programs; the sample trains in 1 GB, distilgpt2 in some 2"
        return Check("memory", "limited", found, advice)
    return Check("memory", "works", found)


def memory_limit(cgroup: Path = CGROUP) -> int | None:
    """Bytes that control groups, of either version, allow this process; None for no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _number(cgroup / name)
        if limit is not None:
            return limit
    return None


def _memory_used(cgroup: Path) -> int | None:
    names = ("memory.current", "memory/memory.usage_in_bytes")
    return next((used for name in names if (used := _number(cgroup / name)) is not None), None)


def core_limit(cgroup: Path = CGROUP) -> float | None:
    """Cores' worth of time that control groups allow; None for no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        quota_us, period_us = (_number(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def cores(cgroup: Path = CGROUP) -> Check:
    """Those that this process may run on."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{cpu_name()}, {usable} of {os.cpu_count()} cores"
    limit = core_limit(cgroup)
    if limit is not None and limit < usable:
        advice = f"give --threads {max(1, round(limit))}: more threads than that wait for each other"
        return Check("cores", "limited", f"{found}, time of {limit:g}", advice)
    return Check("cores", "works", found)


def cpu_name() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def disk(folder: Path) -> Check:
    """Where runs go."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(there, os.W_OK):
        return Check("disk", "limited", f"{there} is not writable", "give --output_dir in a folder of yours")
    free = shutil.disk_usage(there).free
    found = f"{size(free)} free for {folder}"
    if free < LITTLE_DISK:
        advice = "free some, or give --output_dir and HF_HOME on a larger disk; a checkpoint of distilgpt2 has 1 GB"
        return Check("disk", "limited", found, advice)
    return Check("disk", "works", found)
