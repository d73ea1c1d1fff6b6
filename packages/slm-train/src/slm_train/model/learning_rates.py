"""Default learning rates, by training method and size of the base model."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

from slm_train.arguments import Arguments
from slm_train.model.base_model import BaseModel
from slm_train.options.model import BUTTERFLY_MODES, ModelOptions

# Measured in docs/log.md on the built-in base (width 256) and on SmolLM2-135M (width 576), OFT on the former only.
# Higher rates learn a few documents by heart: butterflies at 4e-3 made SmolLM2 worse on held-out stories.
_MEASURED_WIDTH = 576
_SMALL_WIDTH = 512  # bases narrower than this take the rates of the built-in base
_SMALL = {"baseline": 1e-3, "lora": 4e-3, "oft": 4e-3, "butterfly": 3e-2}
_LARGE = {"baseline": 5e-5, "lora": 5e-4, "oft": 5e-4, "butterfly": 1e-3}
_FROM_SCRATCH, _FROM_SCRATCH_WIDTH = 1e-3, 256


def default_learning_rate(options: ModelOptions, base: BaseModel) -> float:
    """Return the default peak learning rate of a training method for a base model.

    Bases narrower than 512 features, such as the built-in one, tolerate rates several times as high as those of models
    of a hundred million parameters. Beyond the width that was measured, the rate falls with its square root, as is
    usual practice.
    """
    width = getattr(base.config.get_text_config(), "hidden_size", _MEASURED_WIDTH)
    if options.from_scratch:
        return _FROM_SCRATCH * min(1.0, math.sqrt(_FROM_SCRATCH_WIDTH / width))
    rates = _SMALL if width < _SMALL_WIDTH else _LARGE
    rate = rates[_method(options)]
    if options.use_rslora and _method(options) == "lora":
        rate /= math.sqrt(options.lora_r)  # its updates are larger by this factor
    return rate * min(1.0, math.sqrt(_MEASURED_WIDTH / width))


def with_learning_rate(arguments: Arguments, base: BaseModel, recorded: dict[str, Any] | None) -> Arguments:
    """Return the options with the default learning rate, unless the user gave one.

    A resumed run, whose run.json is ``recorded``, keeps its rate.
    """
    rate = _recorded_rate(arguments, recorded)
    if rate is None:
        if "learning_rate" in arguments.explicit_flags:
            return arguments
        rate = default_learning_rate(arguments.model, base)
    training = copy.copy(arguments.training)
    training.learning_rate = rate
    return replace(arguments, training=training)


def _recorded_rate(arguments: Arguments, recorded: dict[str, Any] | None) -> float | None:
    """Return the rate of the resumed run: what its search found, or what it had if the user gives none now."""
    if not recorded:
        return None
    if "learning_rate_search" in recorded and arguments.run.find_learning_rate:
        return float(recorded["learning_rate_search"]["chosen"])
    if "learning_rate" in arguments.explicit_flags:
        return None
    rate = recorded.get("arguments", {}).get("learning_rate")
    return None if rate is None else float(rate)


def _method(options: ModelOptions) -> str:
    if options.mode in BUTTERFLY_MODES:
        return "butterfly"
    return "lora" if options.mode == "qlora" else options.mode
