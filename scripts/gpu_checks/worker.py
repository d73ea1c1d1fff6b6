"""The process of one part: ``python -m gpu_checks.worker``. Its result file is written as findings are made."""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from gpu_checks.recorder import Recorder, Unavailable
from gpu_checks.registry import Part
from gpu_checks.results import PartResult

PACKAGES = ("torch", "triton", "transformers", "peft", "accelerate", "bitsandbytes")
LONGEST_REASON = 600  # characters


def main() -> int:
    arguments = _parser().parse_args()
    part = next(part for part in importlib.import_module(arguments.registry).PARTS if part.name == arguments.part)
    device = choose_device(arguments.device)
    result = PartResult(part.name, small=arguments.small, provenance=provenance(device, arguments.commit))
    run_part(part, device, result, arguments.out, arguments.seconds)
    return 0


def run_part(part: Part, device: str, result: PartResult, file: Path, seconds: float) -> PartResult:
    """Run a part in this process, and return its result, which is also written to ``file``."""
    start = time.monotonic()
    result.save(file)
    try:
        if reason := _missing(part, device):
            raise Unavailable(reason)
        with tempfile.TemporaryDirectory(prefix=f"gpu_check_{part.name}_") as folder:
            recorder = Recorder(part, device, result, file, Path(folder), seconds)
            importlib.import_module(part.module_name).run(recorder)
        if undecided := part.claims.keys() - result.claims.keys():
            raise RuntimeError(f"the part ended without a verdict on {', '.join(sorted(undecided))}")
        result.conclude()
    except Unavailable as error:
        result.status, result.reason = "skipped", str(error)
    except BaseException as error:  # whatever ends a part is its result: the other parts still run
        traceback.print_exc()
        result.status, result.reason = "failed", f"{type(error).__name__}: {error}"[:LONGEST_REASON]
    result.seconds = round(time.monotonic() - start, 1)
    result.save(file)
    return result


def choose_device(name: str) -> str:
    """Return ``cpu``, or ``cuda:0`` for a GPU, which is the only one that this process sees."""
    if name == "auto":
        import torch  # takes seconds, which a part without it need not wait for

        name = "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if name.startswith("cuda") else name


def provenance(device: str, commit: str) -> dict[str, str]:
    """Return what a result depends on: device, versions, commit and time."""
    facts = {"device": f"{device} ({platform.machine()})", "commit": commit}
    facts |= {"when": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version()}
    if device.startswith("cuda"):
        import torch

        facts |= {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda or "none"}
    return facts | _versions()


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _missing(part: Part, device: str) -> str:
    if part.needs_cuda and not device.startswith("cuda"):
        return "needs a CUDA device"
    missing = [name for name in part.packages if find_spec(name) is None]
    return f"{', '.join(missing)} is not installed" if missing else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--part", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--small", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
