"""``ButterflyConfig``: what adapter_config.json says of a butterfly adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from peft import PeftConfig

from slm_adapters.butterfly.value_checks import SIDES, check_values
from slm_adapters.errors import AdapterError

FORMAT = 1


class ButterflyType(StrEnum):
    """PEFT's own types are such an enumeration; in JSON it is a plain string."""

    BUTTERFLY = "BUTTERFLY"


@dataclass
class ButterflyConfig(PeftConfig):  # type: ignore[misc]  # PEFT is typed in part
    """A rotation of a layer's input, output or both by angles that start at zero.

    ``block_size``: None for the full width, else the coordinates of a block; it must divide the width of every
    layer. ``stages``: None for as many as mix a block fully. ``side``: every choice keeps the singular values of
    the weight; ``input`` (W R) also the angles between neurons, the rows of W, and their norms; ``output`` (R W) the
    angles between columns and the norm of the output; ``auto`` is the narrower side, the cheapest. ``scale``: a
    learned magnitude for each output feature on top, which keeps none of these. ``strength`` scales the angles; at 0
    the base is back, bit for bit. ``angle_dropout`` turns a share of the angles off in each training step: what is
    left is still a rotation.

    Layers are chosen as in every PEFT method. Raises AdapterError, one sentence, for values out of range.
    """

    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Names of layers, or a regular expression. None: every linear layer."}
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Names of layers to leave out, or a regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Numbers of the blocks to adapt. None: all."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "What the model's list of blocks is called, where PEFT does not know it."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules that train and are saved with the adapter."}
    )
    block_size: int | None = field(default=None, metadata={"help": "Coordinates of a block. None: the full width."})
    stages: int | None = field(default=None, metadata={"help": "Stages of a block. None: as many as mix it fully."})
    side: str = field(default="auto", metadata={"help": f"What is rotated: {', '.join(SIDES)} (the narrower)."})
    scale: bool = field(default=False, metadata={"help": "Learn a magnitude for each output feature."})
    strength: float = field(default=1.0, metadata={"help": "Scales the angles and magnitudes; 0 is the base."})
    angle_dropout: float = field(default=0.0, metadata={"help": "Share of angles turned off in a training step."})
    init_weights: bool = field(default=True, metadata={"help": "Angles start at zero; False: at random, for tests."})
    format_version: int = field(default=FORMAT, metadata={"help": "Version of the checkpoint's layout."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = ButterflyType.BUTTERFLY
        for names in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, names), list):
                setattr(self, names, set(getattr(self, names)))
        if self.layers_pattern and self.layers_to_transform is None:
            raise AdapterError("layers_pattern says where layers_to_transform counts; give that too")
        check_values(self.side, self.block_size, self.stages, self.strength, self.angle_dropout)

    @classmethod
    def check_kwargs(cls, **kwargs: Any) -> dict[str, Any]:
        """Refuse a checkpoint of a later layout, or of settings that this version does not know."""
        version = kwargs.get("format_version", FORMAT)
        if version != FORMAT:
            raise AdapterError(
                f"the butterfly adapter has format version {version}, and this slm-adapters reads version {FORMAT}; "
                "update slm-adapters"
            )
        return super().check_kwargs(**kwargs)
