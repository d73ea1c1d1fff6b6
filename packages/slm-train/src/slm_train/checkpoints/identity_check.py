"""Checking that a run is the one that it continues, apart from changes that the user accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from slm_train.arguments import Arguments
from slm_train.checkpoints.resume import Start
from slm_train.checkpoints.run_identity import EVALUATION_SCHEDULES
from slm_train.checkpoints.setting_changes import (
    SettingChange,
    find_changes,
    recorded_settings,
    refuse_changes,
    refuse_other_data,
)
from slm_train.data.rows import Rows, summarize_rows
from slm_train.errors import TrainError
from slm_train.options.flag_effects import OPTIMIZER_STATE

PrintLine = Callable[[str], None]
_OTHER_DIR = "or give another --output_dir"


def check_identity(
    start: Start, identity: Mapping[str, Any], arguments: Arguments, rows: Rows, print_line: PrintLine
) -> list[SettingChange]:
    """Return the changes since the run that is continued, which the user has accepted; none for a new run.

    Raises TrainError, naming the flags, for changes that are not accepted or cannot be made within a run.
    """
    recorded = start.identity
    if recorded is None:
        return []
    if "settings" not in recorded:
        _describe_earlier(start, print_line)
    settings = recorded_settings(recorded, start.record)
    changes = find_changes(settings, identity["settings"])
    schedules = {str(values.get("lr_scheduler_type")) for values in (settings, identity["settings"])}
    keeps_schedule = bool(arguments.training.deepspeed) or bool(schedules & EVALUATION_SCHEDULES)
    refuse_changes(start.folder, changes, arguments.run.accept_changes, keeps_schedule=keeps_schedule)
    _refuse_other_base(start, recorded, identity)
    _refuse_other_data(start, recorded, identity, arguments, rows)
    for change in changes:
        print_line(f"from step {start.step:,} on: {change} (--accept_changes)")
    return changes


def check_optimizer_state(start: Start, arguments: Arguments) -> None:
    """Raise TrainError if the checkpoint to continue from has no optimizer state, unless the user accepts that."""
    if start.lacks_optimizer and OPTIMIZER_STATE not in arguments.run.accept_changes:
        raise TrainError(
            f"{start.checkpoint} has weights but no optimizer state (--save_only_model): the run would not continue as "
            f"it was; give another checkpoint, or --accept_changes {OPTIMIZER_STATE} to go on with a new optimizer"
        )


def changes_record(start: Start, changes: list[SettingChange]) -> dict[str, Any]:
    """Return the entry ``changes`` of run.json: which flags were changed, and after which step. Empty without any."""
    earlier = [entry for entry in (start.record or {}).get("changes", []) if entry["step"] < start.step]
    entries = [{"step": start.step, "flag": c.name, "before": c.before, "now": c.now} for c in changes]
    if start.lacks_optimizer:
        entries.append({"step": start.step, "flag": OPTIMIZER_STATE, "before": "of the run", "now": "new"})
    return {"changes": earlier + entries} if earlier or entries else {}


def _describe_earlier(start: Start, print_line: PrintLine) -> None:
    if start.record is None:
        raise TrainError(
            f"the checkpoint in {start.folder} is of an earlier slm-train, and run.json, which has its settings, is "
            "gone; restore it, or start again with --overwrite_output_dir"
        )
    print_line(f"{start.folder} was started by an earlier slm-train: only the settings that it recorded are compared")


def _refuse_other_base(start: Start, recorded: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    if recorded.get("base") != identity["base"]:
        raise TrainError(
            f"{start.folder} was trained with the base model {recorded.get('base')}, now {identity['base']}; give "
            f"--model_path {recorded.get('base')}, {_OTHER_DIR}"
        )
    before, now = recorded.get("commit"), identity["commit"]
    if before and now and before != now:
        raise TrainError(
            f"{start.folder} was trained with the commit {before} of {identity['base']}, now {now}; give "
            f"--model_revision {before} when a run begins, {_OTHER_DIR}"
        )
    before, now = recorded.get("processes"), identity["processes"]
    if before and now and before != now:
        raise TrainError(
            f"{start.folder} was trained by {before} processes, now {now}: steps would have other rows; start as many "
            f"as before, {_OTHER_DIR}"
        )


def _refuse_other_data(
    start: Start, recorded: Mapping[str, Any], identity: Mapping[str, Any], arguments: Arguments, rows: Rows
) -> None:
    for kind, name in (("training", "data"), ("validation", "validation")):
        before = recorded.get(name)
        if before and before != identity[name] and not _has_same_counts(start, recorded, rows):
            refuse_other_data(start.folder, kind, start.record, arguments.as_dict())


def _has_same_counts(start: Start, recorded: Mapping[str, Any], rows: Rows) -> bool:
    """Return whether a run of an earlier slm-train, with other hashes, had as many documents and tokens."""
    if "settings" in recorded:
        return False
    before, now = ((start.record or {}).get("data") or {}).get("train") or {}, summarize_rows(rows.train)
    names = ("documents", "tokens", "text_bytes", "rows", "packing", "block_size")
    return all(name in before and before[name] == now.get(name) for name in names)
