"""The sides of a layer that a butterfly adapter rotates, with the rotation of each."""

from __future__ import annotations

from slm_adapters.butterfly.method.config import ButterflyConfig
from slm_adapters.butterfly.structure import Rotation
from slm_adapters.errors import AdapterError

INPUT, OUTPUT = "butterfly_input", "butterfly_output"
SIDES = {"input": (INPUT,), "output": (OUTPUT,), "both": (INPUT, OUTPUT)}


def rotations_by_side(
    layer_name: str, in_features: int, out_features: int, config: ButterflyConfig
) -> dict[str, Rotation]:
    """Return the rotations of a layer, by INPUT and OUTPUT.

    Raises AdapterError, with the layer's name, for a side of width 1 and for a block size that does not fit.
    """
    widths = {INPUT: in_features, OUTPUT: out_features}
    sides = (_auto_side(widths, config.block_size),) if config.side == "auto" else SIDES[config.side]
    for side in sides:
        if widths[side] < 2:
            raise AdapterError(
                f"{layer_name}: a layer of {in_features} -> {out_features} features has no plane to rotate in at its "
                f"{side.removeprefix('butterfly_')}; {_remedy(widths)}"
            )
    try:
        return {side: Rotation.of(widths[side], config.block_size, config.stages) for side in sides}
    except AdapterError as error:
        raise AdapterError(f"{layer_name}: {error}") from None


def _auto_side(widths: dict[str, int], block_size: int | None) -> str:
    """Return the narrower side of those that can be rotated in blocks of ``block_size``, the input of equal ones.

    If there is none, it is the narrower side, whose width the error then reports.
    """
    fitting = [side for side, width in widths.items() if width >= 2 and width % (block_size or width) == 0]
    return min(fitting or widths, key=widths.__getitem__)


def _remedy(widths: dict[str, int]) -> str:
    if max(widths.values()) < 2:
        return "leave it out of the target modules"
    return "use side='auto', or leave it out of the target modules"
