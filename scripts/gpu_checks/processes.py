"""Running parts in processes of their own, each with a time limit, some of them side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from heapq import heapreplace
from pathlib import Path
from threading import Event

import psutil

from gpu_checks.member_metadata import write_metadata
from gpu_checks.registry import Part
from gpu_checks.results import RUNNING, PartResult, ResultError, read_result

ROOT = Path(__file__).resolve().parent.parent.parent
MEMBERS = ("packages/*", "apps/*", "tests/slm-testing")
METADATA = "metadata"  # the folder of results has it
LAST_LINES = 3  # of the log of a process that died without a result


@dataclass(frozen=True)
class Settings:
    """How parts are run: see ``scripts/gpu_check --help``. ``registry`` is the module with PARTS."""

    out: Path
    device: str
    small: bool
    commit: str
    jobs: int
    registry: str = "gpu_checks.registry"


def time_limits(parts: Sequence[Part], jobs: int, seconds: float) -> dict[str, float]:
    """Return the seconds of each part, so that all of them, each at its limit, take ``seconds``."""
    workers = [0.0] * max(1, jobs)
    for part in parts:
        if not part.alone:
            heapreplace(workers, workers[0] + part.seconds)
    total = max(workers) + sum(part.seconds for part in parts if part.alone)
    return {part.name: part.seconds * seconds / total for part in parts}


def run_parts(
    parts: Sequence[Part], limits: dict[str, float], settings: Settings, report: Callable[[PartResult], None]
) -> list[PartResult]:
    """Run all parts, first those that may run side by side, and call ``report`` with each result as it comes.

    SIGTERM raises SystemExit here; then, as with Ctrl-C, the parts that run are ended.
    """
    environment, stopped = _environment(settings.out, settings.device), Event()

    def run(part: Part) -> PartResult:
        if stopped.is_set():
            return PartResult(part.name, "skipped", "the run was stopped")
        result = run_process(part, limits[part.name], settings, environment)
        report(result)
        return result

    with _sigterm_as_exception(), ThreadPoolExecutor(settings.jobs) as threads:
        try:
            beside = list(threads.map(run, (part for part in parts if not part.alone)))
            return beside + [run(part) for part in parts if part.alone]
        except BaseException:
            stopped.set()
            end_children(psutil.Process())
            raise


def run_process(part: Part, limit: float, settings: Settings, environment: dict[str, str]) -> PartResult:
    """Run a part in a process of its own, and end it and its children at the limit."""
    file, log = settings.out / f"{part.name}.json", settings.out / f"{part.name}.log"
    file.unlink(missing_ok=True)
    words = ["--registry", settings.registry, "--part", part.name, "--out", str(file), "--device", settings.device]
    words += ["--seconds", f"{limit:.1f}", "--commit", settings.commit, *(["--small"] if settings.small else [])]
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu_checks.worker", *words],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=settings.out,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(limit)
            ending = ""
        except subprocess.TimeoutExpired:
            ending = f"ended at its limit of {limit:.0f} s"
        finally:
            end_process(process)
    return _result(part, file, log, ending or _description(process.returncode), time.monotonic() - start, settings)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, its children and their children, if they still run, and wait for it."""
    with suppress(psutil.NoSuchProcess):
        end_children(psutil.Process(process.pid))  # also those with sessions of their own, such as torchrun's
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also those that outlived their parent
    process.wait()


def end_children(process: psutil.Process) -> None:
    """Kill the children of a process, and their children."""
    for each in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            each.kill()


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Make SIGTERM raise SystemExit within the block."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _result(part: Part, file: Path, log: Path, ending: str, seconds: float, settings: Settings) -> PartResult:
    """Return the result that the process wrote; one that did not finish it has failed."""
    try:
        result = read_result(file)
    except ResultError:
        result = PartResult(part.name, small=settings.small, provenance={"commit": settings.commit})
    if result.status == RUNNING:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:]
        result.status, result.seconds = "failed", round(seconds, 1)
        result.reason = f"the process {ending}" + (f"; it last printed: {' / '.join(last)}" if last else "")
        result.save(file)
    return result


def _description(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _environment(out: Path, device: str) -> dict[str, str]:
    metadata = out / METADATA
    write_metadata(member_folders(), metadata)
    before = os.environ.get("PYTHONPATH")
    folders = [ROOT / "scripts", *(member / "src" for member in member_folders()), metadata]
    path = os.pathsep.join([*map(str, folders), *([before] if before else [])])
    settings = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    return {**os.environ, **settings, "CUDA_VISIBLE_DEVICES": visible_gpu(device, os.environ)}


def visible_gpu(device: str, variables: Mapping[str, str]) -> str:
    """Return CUDA_VISIBLE_DEVICES for the parts: one GPU, as transformers' Trainer would use all of several.

    Args:
        device: ``auto``, ``cuda``, ``cuda:N`` or ``cpu``.
        variables: Those of the environment.
    """
    if device == "cpu":
        return ""
    visible = variables.get("CUDA_VISIBLE_DEVICES", "").split(",")
    index = int(device.partition(":")[2] or 0)
    return visible[index] if visible[0] else str(index)


def member_folders() -> list[Path]:
    """Return the folders of all members."""
    found = (folder for pattern in MEMBERS for folder in ROOT.glob(pattern))
    return sorted(folder for folder in found if (folder / "pyproject.toml").exists())
