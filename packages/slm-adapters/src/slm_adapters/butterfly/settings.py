"""``ButterflySettings``: presets and values of a butterfly adapter, checked without torch or PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slm_adapters.butterfly.value_checks import check_values
from slm_adapters.errors import AdapterError

# Measured (docs/benchmarks.md): the narrower side has the cheapest step; both sides with magnitudes learn most of the
# settings of a butterfly. At equal parameter counts neither is better than LoRA on every base.
PRESETS: dict[str, dict[str, Any]] = {
    "speed": {"side": "auto", "scale": False},
    "quality": {"side": "both", "scale": True},
}


@dataclass(frozen=True)
class ButterflySettings:
    """Settings of a butterfly adapter, from which ``butterfly_config`` makes a ``ButterflyConfig`` for a model.

    Args:
        block_size: Coordinates of a block; None for the full width, ``"auto"`` for the largest block up to 256 that
            divides the width of every target.
        stages: Stages of a block; None for as many as mix it fully.
        preset: ``"speed"`` or ``"quality"``; sets ``side`` and ``scale``.
        side: What is rotated (see ``ButterflyConfig``); None for the preset's choice.
        scale: Whether to learn a magnitude for each output feature; None for the preset's choice.
        dropout: Share of the angles set to zero in each training step.
        target_modules: Names of layers; empty or ``all-linear`` for every linear layer of the blocks.
        modules_to_save: Names of other modules that are trained as a whole and saved with the adapter.
        new_rows: Rows at the end of the embeddings, added by ``resize_embeddings``, that are trained and saved.

    Raises:
        AdapterError: For an unknown preset and for values out of range.
    """

    block_size: int | str | None = None
    stages: int | None = None
    preset: str = "speed"
    side: str | None = None
    scale: bool | None = None
    dropout: float = 0.0
    target_modules: Sequence[str] = ()
    modules_to_save: Sequence[str] = ()
    new_rows: int = 0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise AdapterError(f"butterfly preset {self.preset!r} must be one of {', '.join(PRESETS)}")
        if isinstance(self.block_size, str) and self.block_size != "auto":
            raise AdapterError(f"butterfly block size {self.block_size!r} must be a number, or auto")
        options = self.config_options(None if isinstance(self.block_size, str) else self.block_size)
        check_values(options["side"], options["block_size"], options["stages"], angle_dropout=options["angle_dropout"])

    def config_options(self, block_size: int | None) -> dict[str, Any]:
        """Return the arguments of ``ButterflyConfig``, with ``block_size``, which replaces ``"auto"``."""
        overrides = {"side": self.side, "scale": self.scale}
        explicit = {name: value for name, value in overrides.items() if value is not None}
        values = {"block_size": block_size, "stages": self.stages, "angle_dropout": self.dropout}
        return PRESETS[self.preset] | explicit | values
