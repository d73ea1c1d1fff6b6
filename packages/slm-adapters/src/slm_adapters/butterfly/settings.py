"""Butterfly adapters that fit the model at hand: targets, block sizes and presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

from peft import PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from slm_adapters.butterfly.base_weights import features
from slm_adapters.butterfly.config import ButterflyConfig
from slm_adapters.butterfly.ladder import divisors
from slm_adapters.errors import AdapterError
from slm_adapters.targets import check_targets, default_targets, is_named, linear_layers

# Measured (LOG.md): the narrower side is the cheapest step; both sides with magnitudes reached the lowest
# perplexity, for fewer parameters than LoRA of rank 4.
PRESETS: dict[str, dict[str, Any]] = {
    "speed": {"side": "auto", "scale": False},
    "quality": {"side": "both", "scale": True},
}
LARGEST_BLOCK = 256


@dataclass(frozen=True)
class ButterflySettings:
    """``block_size``: None for the full width, ``"auto"`` for the largest that divides every width, up to 256.
    ``side`` and ``scale``: as ``preset`` has them unless given. ``target_modules`` empty: every linear layer.

    The rest is ButterflyConfig's. Raises AdapterError for an unknown preset.
    """

    block_size: int | str | None = None
    stages: int | None = None
    preset: str = "speed"
    side: str | None = None
    scale: bool | None = None
    dropout: float = 0.0
    target_modules: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise AdapterError(f"butterfly preset {self.preset!r} must be one of {', '.join(PRESETS)}")
        if isinstance(self.block_size, str) and self.block_size != "auto":
            raise AdapterError(f"butterfly block size {self.block_size!r} must be a number, or auto")
        ButterflyConfig(**self._options(None if self.block_size == "auto" else self.block_size))  # checks the values

    def _options(self, block_size: Any) -> dict[str, Any]:
        chosen = {"side": self.side, "scale": self.scale}
        given = {name: value for name, value in chosen.items() if value is not None}
        fixed = {"block_size": block_size, "stages": self.stages, "angle_dropout": self.dropout}
        return PRESETS[self.preset] | given | fixed


def butterfly_config(model: PreTrainedModel, settings: ButterflySettings) -> ButterflyConfig:
    """PEFT's configuration for ``model``. Raises AdapterError for a target that does not exist."""
    targets = check_targets(model, settings.target_modules or default_targets(model))
    block = largest_block(model, targets) if settings.block_size == "auto" else settings.block_size
    return ButterflyConfig(task_type=TaskType.CAUSAL_LM, target_modules=targets, **settings._options(block))


def add_butterfly(model: PreTrainedModel, settings: ButterflySettings) -> PeftModel:
    """``model`` frozen, with rotations that train, in float32, and change no bit at the start."""
    return get_peft_model(model, butterfly_config(model, settings))


def largest_block(model: PreTrainedModel, targets: Sequence[str]) -> int:
    """The largest block, up to 256, that divides the widths of all targets and is no width itself."""
    layers = linear_layers(model)
    widths = {width for name in layers if is_named(name, targets) for width in features(layers[name]) or ()}
    fitting = [d for d in divisors(gcd(*widths)) if d <= min(LARGEST_BLOCK, min(widths) // 2)]
    if not fitting:
        raise AdapterError(
            f"no block size divides the widths {', '.join(map(str, sorted(widths)))}; rotate the full width instead"
        )
    return fitting[-1]
