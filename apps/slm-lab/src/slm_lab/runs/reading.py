"""Reading run.json, which may be damaged or come from another machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm_lab.errors import DamagedRecordError
from slm_lab.runs.evaluations import read_evaluations
from slm_lab.runs.numbers import read_number
from slm_lab.runs.record import COMMAND_FILE, RECORD_FILE, Evaluation, Run, When
from slm_lab.runs.sampled_texts import parse_samples
from slm_train import active_process


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read the run in ``folder``.

    Args:
        folder: A run folder of slm-train.
        name: How to call the run; default: the name of the folder.

    Raises:
        DamagedRecordError: Where run.json cannot be read, is not JSON, or was not written by slm-train.
    """
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        return _parse_record(record, folder, folder.name if name is None else name)
    except OSError as error:
        raise DamagedRecordError(f"it cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # deeply nested JSON raises RecursionError
        raise DamagedRecordError("it is not valid JSON") from error
    except (TypeError, KeyError, AttributeError, OverflowError) as error:  # JSON integers have no upper limit
        raise DamagedRecordError(f"it was not written by slm-train ({type(error).__name__}: {error})") from error


def _parse_record(record: Mapping[str, Any], folder: Path, name: str) -> Run:
    arguments, device = record.get("arguments", {}), record.get("device", {})
    parameters, memory, speed = (record.get(part, {}) for part in ("parameters", "memory", "speed"))
    validation = record.get("data", {}).get("validation", {})
    evaluation, prompt = record.get("evaluation", {}), arguments.get("prompt")
    return Run(
        name=name,
        folder=folder,
        mode=str(record["mode"]),
        status=_status(record, folder),
        base=str(record.get("base") or "a new model"),
        dataset=str(record.get("dataset", "")),
        flow=str(record.get("flow", "trainer")),
        seed=_integer(arguments, "seed"),
        before=_evaluation(evaluation, "before"),
        after=_evaluation(evaluation, "after"),
        trainable_parameters=read_number(parameters, "trainable"),
        total_parameters=read_number(parameters, "total"),
        weight_bytes=read_number(memory, "weights"),
        gradient_bytes=read_number(memory, "gradients"),
        optimizer_bytes=read_number(memory, "optimizer"),
        peak_bytes=read_number(memory, "peak"),
        memory_kind=str(memory.get("kind", "memory")),
        steps=read_number(speed, "steps"),
        tokens=read_number(speed, "tokens"),
        train_seconds=read_number(speed, "train_seconds"),
        tokens_per_second=read_number(speed, "tokens_per_second"),
        device=str(device.get("name", "")),
        threads=_integer(device, "threads"),
        validation_fingerprint=str(validation.get("fingerprint", "")),
        block_size=read_number(validation, "block_size"),
        samples={str(when): parse_samples(texts, prompt) for when, texts in record.get("samples", {}).items()},
        versions={str(library): str(version) for library, version in record.get("versions", {}).items()},
        machine=dict(record.get("machine", {})),
        arguments=dict(arguments),
        evaluations=read_evaluations(folder),
    )


def _status(record: Mapping[str, Any], folder: Path) -> str:
    """Return the status of a run; ``interrupted`` if it was killed, which its record cannot say."""
    status = str(record["status"])
    return "interrupted" if status == "running" and active_process(folder) is None else status


def _evaluation(evaluations: Mapping[str, Any], when: When) -> Evaluation | None:
    if when not in evaluations:
        return None
    values = evaluations[when]
    return Evaluation(float(values["perplexity"]), float(values["bits_per_byte"]))


def _integer(values: Mapping[str, Any], name: str) -> int | None:
    number = read_number(values, name)
    return None if number is None else int(number)


def read_command(folder: Path) -> tuple[str, ...] | None:
    """Read the words after ``slm-train`` with which slm-lab started the run; None if slm-lab did not start it."""
    words = _read_lab_file(folder).get("argv")
    return tuple(map(str, words)) if isinstance(words, list) else None


def read_label(folder: Path) -> str | None:
    """Read the name of the variant of slm-lab, such as ``lora r=4``; None if slm-lab did not record one."""
    label = _read_lab_file(folder).get("label")
    return label if isinstance(label, str) and label else None


def _read_lab_file(folder: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((folder / COMMAND_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
