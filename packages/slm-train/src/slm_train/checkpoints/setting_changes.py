"""Comparing a run with the one that it continues: changed settings are refused by name, or accepted and recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_train.checkpoints.run_identity import unused_settings
from slm_train.errors import TrainError
from slm_train.options.flag_effects import CHANGEABLE, DATA, FIXED, LENGTH, OPTIMIZER, SCHEDULE, VALIDATION_DATA


@dataclass(frozen=True)
class SettingChange:
    """A flag whose value differs from that of the run that is continued."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"--{self.name} {_text(self.before)}, now {_text(self.now)}"


def recorded_settings(identity: Mapping[str, Any], record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings of the run that is continued.

    Until slm-train 0.7 an identity had few of them; the others are among the arguments in run.json.
    """
    if "settings" in identity:
        return dict(identity["settings"])
    values = {**((record or {}).get("arguments") or {}), **identity}
    names = (FIXED | CHANGEABLE) - unused_settings(values)
    return {name: values[name] for name in names if name in values}


def find_changes(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[SettingChange]:
    """Return the settings that differ.

    A flag that the version of the earlier run did not have is not compared, except for those that limit the length,
    which replace each other.
    """
    names = (recorded.keys() & current.keys()) | (LENGTH & (recorded.keys() | current.keys()))
    changes = [SettingChange(name, recorded.get(name), current.get(name)) for name in sorted(names)]
    return [change for change in changes if _differs(change)]


def _differs(change: SettingChange) -> bool:
    before, now = change.before, change.now
    if change.name == "accelerator_config" and isinstance(before, Mapping) and isinstance(now, Mapping):
        return any(before[name] != now[name] for name in before.keys() & now.keys())  # versions have different ones
    return bool(before != now)


def refuse_changes(
    folder: Path, changes: Collection[SettingChange], accepted: Collection[str], *, keeps_schedule: bool
) -> None:
    """Raise TrainError, naming all of them, for changes that are not accepted or cannot be made within a run.

    ``keeps_schedule``: whether optimizer and schedule are restored in a way that no new setting can get into.
    """
    fixed = [change for change in changes if _is_fixed(change, keeps_schedule=keeps_schedule)]
    if fixed:
        raise TrainError(
            f"{folder} was trained with {_list(fixed)}, which cannot change within a run; give the flags that it was "
            "started with, or another --output_dir"
        )
    accepted = {*accepted, *(LENGTH if LENGTH & set(accepted) else ())}  # one of them replaces another
    refused = [change for change in changes if change.name not in accepted]
    if refused:
        names = " ".join(change.name for change in changes)
        raise TrainError(
            f"{folder} was trained with {_list(refused)}; give the flags that it was started with, another "
            f"--output_dir, or --accept_changes {names} to continue with the new values"
        )


def refuse_other_data(folder: Path, kind: str, record: Mapping[str, Any] | None, arguments: Mapping[str, Any]) -> None:
    """Raise TrainError for other data, with the flags that differ. ``kind`` is ``training`` or ``validation``."""
    names = DATA if kind == "training" else DATA | VALIDATION_DATA
    before = (record or {}).get("arguments") or {}
    changes = [
        SettingChange(name, before[name], arguments[name])
        for name in sorted(names & before.keys() & arguments.keys())
        if _text(before[name]) != _text(arguments[name])
    ]
    cause = _list(changes) if changes else "the content of the files, the tokenizer or the layout of rows has changed"
    raise TrainError(
        f"{folder} was trained with other {kind} data: {cause}; continue it with the same data, or give another "
        "--output_dir"
    )


def _is_fixed(change: SettingChange, *, keeps_schedule: bool) -> bool:
    is_kept = keeps_schedule and change.name in (SCHEDULE | OPTIMIZER) - LENGTH
    return is_kept or change.name not in CHANGEABLE


def _list(changes: Collection[SettingChange]) -> str:
    return "; ".join(map(str, changes))


def _text(value: Any) -> str:
    """Return a value as on a command line."""
    if value is None or value == []:
        return "none"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
