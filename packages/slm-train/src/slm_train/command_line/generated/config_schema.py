"""``--config_schema``: the JSON schema of a file for ``--config``, made from the parser of the command line."""

from __future__ import annotations

import json
import math
from argparse import Action
from collections.abc import Sequence
from enum import Enum
from typing import Any

import slm_data
from slm_train.command_line.budget_flags import is_dynamic, is_hidden
from slm_train.command_line.checks.json_values import OBJECTS, OBJECTS_OR_FILES
from slm_train.command_line.checks.value_ranges import RANGES, Range
from slm_train.command_line.config_file import CONFIG_FLAG
from slm_train.command_line.flag_parser import NOT_ON_COMMAND_LINE, number_or_auto
from slm_train.command_line.flag_types import FALSE_WORDS, TRUE_WORDS, Removed, Switch
from slm_train.command_line.legacy_flags import LEGACY_FLAGS, LEGACY_VALUES
from slm_train.command_line.parsing import flag_parser
from slm_train.options.budget import AUTO
from slm_train.options.model import MODES

SCHEMA_FLAG = "--config_schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

# A word that Python reads as a number. YAML 1.1 reads 1e-4 as a text, so that numbers may be texts.
_INTEGER_TEXT: Schema = {"type": "string", "pattern": r"^[+-]?[0-9]+$"}
_NUMBER_TEXT: Schema = {"type": "string", "pattern": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"}
_SWITCH: Schema = {"anyOf": [{"type": "boolean"}, {"enum": [*sorted(TRUE_WORDS | FALSE_WORDS), 0, 1]}]}
_SCALAR: Schema = {"type": ["string", "number", "boolean"]}
# Choices of this project's own options, which check them themselves.
OWN_CHOICES: dict[str, Sequence[str]] = {
    "mode": MODES,
    "packing": slm_data.PACKINGS,
    "long_rows": slm_data.LONG_ROWS,
    "loss_on": slm_data.LOSS_ON,
    "data_format": ("auto", *slm_data.DATA_FORMATS),
    "schedule_in": ("steps", "tokens"),
}


def config_schema_text(argv: Sequence[str]) -> str:
    """Return the schema that a command line with ``--config_schema`` asks for, as JSON."""
    return json.dumps(config_schema(dynamic=is_dynamic(argv)), indent=2)


def config_schema(*, dynamic: bool) -> Schema:
    """Return the JSON schema of a file of flags for one of the loops.

    What it accepts is accepted by the command, as far as names, types, choices and ranges are concerned. The command
    also reads other spellings: names with dashes, and single values as a list of one.
    """
    actions = flag_parser(dynamic=dynamic)._actions
    shown = [one for one in actions if one.dest != "help" and not (dynamic and is_hidden(one.dest))]
    current = {_name(one): _property(one) for one in shown if _name(one) != CONFIG_FLAG}
    legacy = {} if dynamic else {name: _legacy(name) for name in LEGACY_FLAGS if name not in current}
    command = "slm-train dynamic" if dynamic else "slm-train"
    return {
        "$schema": DIALECT,
        "title": f"Flags of {command}, for --config",
        "type": "object",
        "additionalProperties": False,
        "properties": current | legacy,
    }


def _name(action: Action) -> str:
    """Return the name that the flag is given by: ``no_X`` for one that switches X off."""
    return action.option_strings[0].lstrip("-")


def _property(action: Action) -> Schema:
    entry: Schema = {"anyOf": [*_values(action), {"type": "null"}]}
    if action.help:
        entry["description"] = " ".join(action.help.replace("%%", "%").split())
    default = action.default.value if isinstance(action.default, Enum) else action.default
    if action.nargs != 0 and _is_shown(default):
        entry["default"] = default
    return entry


def _is_shown(default: Any) -> bool:
    """Return whether a default can be written in JSON, and means something."""
    if isinstance(default, float):
        return math.isfinite(default)
    return isinstance(default, str | int | list) and default not in ("", [])


def _values(action: Action) -> list[Schema]:
    """Return the schemas of which a value other than null fulfils one."""
    name = action.dest
    if name in NOT_ON_COMMAND_LINE:
        return []
    if name in OBJECTS | OBJECTS_OR_FILES:
        return [{"type": "object"}, {"type": "string"}]
    one = _scalar(action)
    if action.nargs == "+":
        return [one, {"type": "array", "items": one, "minItems": 1}]
    return [one]


def _scalar(action: Action) -> Schema:
    if choices := action.choices or _enum_values(action.type) or OWN_CHOICES.get(action.dest):
        names = [*map(str, choices), *LEGACY_VALUES.get(action.dest, {})]
        return {"enum": list(dict.fromkeys(name for name in names if name))}
    if action.type is int:
        return _number("integer", _INTEGER_TEXT, RANGES.get(action.dest))
    if action.type is number_or_auto:
        return {"anyOf": [*_number("integer", _INTEGER_TEXT, RANGES.get(action.dest))["anyOf"], {"const": AUTO}]}
    if action.type is float:
        return _number("number", _NUMBER_TEXT, RANGES.get(action.dest))
    if action.nargs in (0, "?") and action.type is not str:
        return _SWITCH
    return _SCALAR


def _enum_values(kind: Any) -> list[str]:
    return [str(member.value) for member in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def _number(kind: str, text: Schema, limits: Range | None) -> Schema:
    alternatives = [{"type": kind} | (_bounds(limits) if limits else {}), text]
    if limits and limits.unset is not None:
        alternatives.append({"const": limits.unset})
    return {"anyOf": alternatives}


def _bounds(limits: Range) -> Schema:
    bounds: Schema = {"exclusiveMinimum" if limits.above else "minimum": limits.lowest}
    if math.isfinite(limits.highest):
        bounds["exclusiveMaximum" if limits.below else "maximum"] = limits.highest
    return bounds


def _legacy(name: str) -> Schema:
    """Return the entry of a flag of transformers 4, which is translated or ignored."""
    old = LEGACY_FLAGS[name]
    if isinstance(old, Removed):
        return {"deprecated": True, "description": f"Ignored: {old.reason}."}
    values = _SWITCH if isinstance(old, Switch) else _SCALAR
    return {"deprecated": True, "description": f"Now {old.new}.", "anyOf": [values, {"type": "null"}]}
