"""``ButterflyConfig``: the configuration of a butterfly adapter, as saved in adapter_config.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from peft import PeftConfig

from slm_adapters.butterfly.value_checks import SIDES, check_values
from slm_adapters.errors import AdapterError

# Some ways to load an adapter read its tensors only. So a later version must also give its tensors other names.
FORMAT_VERSION = 1


class ButterflyType(str, Enum):  # noqa: UP042  # PEFT reads str(), which differs in a StrEnum
    """The method's type: a string enumeration like PEFT's own ``PeftType``, which cannot be extended.

    Not a ``StrEnum``: PEFT's ``get_model_status`` shows what follows the dot in ``str(peft_type)``.
    """

    BUTTERFLY = "BUTTERFLY"


@dataclass
class ButterflyConfig(PeftConfig):  # type: ignore[misc]  # PEFT is partly typed
    """Configuration of a rotation of a layer's input, output or both, by angles that start at zero.

    Layers are chosen as in every PEFT method.

    Args:
        block_size: Coordinates of a block; None for the full width. It must divide every rotated width.
        stages: Stages of a block; None for as many as mix it fully.
        side: What is rotated. Every choice preserves the singular values of the weight W. ``"input"`` (W R) also
            preserves the norms of the rows of W and the angles between them; ``"output"`` (R W) the angles between
            columns, and the norm of the output; ``"both"`` rotates both; ``"auto"`` rotates the narrower side, which
            is the cheapest, of those with a width above 1 that the block size divides.
        scale: Also learn a magnitude for each output feature, which preserves none of these.
        strength: Factor on the angles and on the deviation of the magnitudes from one; 0 gives the base, bit for bit.
        angle_dropout: Share of the angles set to zero in each training step; the rest is still a rotation.

    Raises:
        AdapterError: One sentence, for values out of range.
    """

    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Names of layers, or a regular expression. None: every linear layer."}
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Names of layers to leave out, or a regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the blocks to adapt. None: all."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the model's list of blocks, if PEFT does not know it."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules that are trained and saved with the adapter."}
    )
    ensure_weight_tying: bool = field(
        default=False, metadata={"help": "Train tied embeddings in modules_to_save as one weight."}
    )
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None,
        metadata={"help": "Rows of the embeddings that are trained and saved, by module."},
    )
    block_size: int | None = field(default=None, metadata={"help": "Coordinates of a block. None: the full width."})
    stages: int | None = field(default=None, metadata={"help": "Stages of a block. None: as many as mix it fully."})
    side: str = field(default="auto", metadata={"help": f"What is rotated: {', '.join(SIDES)} (the narrower side)."})
    scale: bool = field(default=False, metadata={"help": "Learn a magnitude for each output feature."})
    strength: float = field(default=1.0, metadata={"help": "Factor on angles and magnitudes; 0 is the base."})
    angle_dropout: float = field(default=0.0, metadata={"help": "Share of angles set to zero in a training step."})
    init_weights: bool = field(default=True, metadata={"help": "Angles start at zero; False: at random, for tests."})
    format_version: int = field(default=FORMAT_VERSION, metadata={"help": "Version of the checkpoint's format."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_format(self.format_version)
        self.peft_type = ButterflyType.BUTTERFLY
        for setting in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, setting), list):
                setattr(self, setting, set(getattr(self, setting)))
        if self.layers_pattern and self.layers_to_transform is None:
            raise AdapterError(
                "layers_pattern names the list that layers_to_transform indexes; give layers_to_transform too"
            )
        check_values(self.side, self.block_size, self.stages, self.strength, self.angle_dropout)

    @classmethod
    def check_kwargs(cls, **kwargs: Any) -> dict[str, Any]:
        """Refuse a checkpoint of a later format. PEFT calls this before it drops values that it does not know."""
        _check_format(kwargs.get("format_version", FORMAT_VERSION))
        return super().check_kwargs(**kwargs)


def _check_format(version: Any) -> None:
    if version != FORMAT_VERSION:
        raise AdapterError(
            f"the butterfly adapter has format version {version}, but this slm-adapters reads version "
            f"{FORMAT_VERSION}; update slm-adapters"
        )
