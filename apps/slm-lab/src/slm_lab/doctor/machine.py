"""Checks of the machine: memory, cores, disk."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import psutil

from slm_lab.doctor.cgroups import CGROUP, core_limit, memory_limit, memory_used
from slm_lab.doctor.check import Check
from slm_lab.formatting import format_bytes

# Below these sizes in bytes the check is "limited".
LITTLE_MEMORY, LITTLE_DISK = 2e9, 5e9


def check_memory(cgroup: Path = CGROUP) -> Check:
    """Check the free memory of the machine or of the container."""
    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    limit = memory_limit(cgroup)
    size = format_bytes(total)
    # cgroups v1 writes a limit of almost 2**63 for none.
    if limit is not None and limit < total:
        free = min(free, max(0, limit - (memory_used(cgroup) or 0)))
        size = f"{format_bytes(limit)} available to this container (machine: {size})"
    detail = f"{format_bytes(free)} free of {size}"
    if free < LITTLE_MEMORY:
        advice = "close other programs; training needs about 1 GB for the built-in base and 2 GB for distilgpt2"
        return Check("memory", "limited", detail, advice)
    return Check("memory", "works", detail)


def check_cores(cgroup: Path = CGROUP) -> Check:
    """Check the CPU cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    detail = f"{cpu_name()}, {usable} of {os.cpu_count()} cores usable"
    limit = core_limit(cgroup)
    if limit is not None and limit < usable:
        advice = f"use --threads {max(1, round(limit))}; further threads would only wait for CPU time"
        return Check("cores", "limited", f"{detail}, CPU time limited to {limit:g} cores", advice)
    return Check("cores", "works", detail)


def cpu_name() -> str:
    """Return the name of the CPU model, or its architecture."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux; platform.processor() is often empty there
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def check_disk(folder: Path) -> Check:
    """Check the free disk space for ``folder``, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Check("disk", "limited", f"{existing} is not writable", "use --output_dir with a writable folder")
    free = shutil.disk_usage(existing).free
    detail = f"{format_bytes(free)} free for {folder}"
    if free < LITTLE_DISK:
        advice = "free some space, or put --output_dir and HF_HOME on another disk; a distilgpt2 checkpoint is 1 GB"
        return Check("disk", "limited", detail, advice)
    return Check("disk", "works", detail)
