"""The identity of a run: what must not change when it is resumed, unless the user accepts it."""

from __future__ import annotations

import json
from typing import Any

from slm_data import RowDataset
from slm_train.arguments import Arguments
from slm_train.data.rows import Rows
from slm_train.model.base_model import BaseModel
from slm_train.options.flag_effects import CHANGEABLE, EVALUATION, FIXED, LENGTH

IDENTITY_NAME = "RunIdentity"  # among the stateful callbacks of trainer_state.json
EVALUATION_SCHEDULES = frozenset(["reduce_lr_on_plateau", "greedy"])  # they follow the loss of evaluations
_BASE_FLAGS = {"model_path", "from_scratch"}  # the name of the base is compared instead


def run_identity(arguments: Arguments, base: BaseModel, rows: Rows) -> dict[str, Any]:
    """Return the identity of a run. Stored in run.json and in every checkpoint.

    Its entries are ``base`` and ``commit`` of the base model, hashes of the ``data`` and the ``validation`` data, the
    ``processes`` of a run of the Trainer, and the ``settings``: values of flags by name.
    """
    validation = rows.validation.store.fingerprint if isinstance(rows.validation, RowDataset) else None
    training = arguments.training
    return {
        "base": base.name or arguments.model.from_scratch,
        "commit": getattr(base.config, "_commit_hash", None),
        "data": rows.fingerprint,
        "validation": validation,
        "processes": None if arguments.budget else training.world_size * max(1, training.n_gpu),
        "settings": settings_of(arguments),
    }


def settings_of(arguments: Arguments) -> dict[str, Any]:
    """Return the flags that affect the trajectory, as they are read back from JSON."""
    values = arguments.as_dict()
    if arguments.budget:
        values["per_device_train_batch_size"] = arguments.max_micro_batch_rows
    names = (FIXED | CHANGEABLE) - _BASE_FLAGS - unused_settings(values)
    settings: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return {name: settings[name] for name in sorted(names) if name in settings}


def unused_settings(values: dict[str, Any]) -> frozenset[str]:
    """Return the flags that have no effect beside the others in ``values``."""
    is_timed, has_steps = values.get("max_minutes") is not None, values.get("max_steps", -1) > 0
    length = "max_minutes" if is_timed else "max_steps" if has_steps else "num_train_epochs"
    unused = LENGTH - {length}
    follows_evaluations = str(values.get("lr_scheduler_type")) in EVALUATION_SCHEDULES
    return unused if follows_evaluations else unused | EVALUATION
