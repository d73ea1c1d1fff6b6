"""The compared families of methods: each is sized to the parameter count of LoRA of a given rank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import peft

from slm_bench.adapters.methods import Configure, butterfly, peft_method

RANKS = tuple(range(1, 65))  # also numbers of stages
BLOCK_SIZES = (2, 4, 8, 16, 32, 64, 128)
COUNTS = tuple(round(16 * 2 ** (quarter / 4)) for quarter in range(60))  # from 16 to 442,000


@dataclass(frozen=True)
class Family:
    """A method whose parameter count grows along ``sizes``, such as the rank.

    ``rate`` is its learning rate without a search, and where a search begins. ``always``: measured without --full too.
    ``short`` is its name in --methods.
    """

    short: str
    name: str
    configure: Callable[[Any], Configure]
    rate: float
    sizes: Sequence[Any] = RANKS
    size_text: str = ""  # of a size, in tables; empty if there is one size only
    always: bool = False

    def label(self, size: Any) -> str:
        """Return the name of the method in tables."""
        return f"{self.name}, {self.size_text.format(size)}" if self.size_text else self.name


def _lora(short: str, name: str, always: bool = False, **options: Any) -> Family:
    def configure(rank: int) -> Configure:
        return peft_method(peft.LoraConfig, r=rank, lora_alpha=2 * rank, **options)

    return Family(short, name, configure, 2e-2, size_text="r={}", always=always)


def _butterfly(side: str, scale: Any, block_size: int | None = None, always: bool = False) -> Family:
    """Rotations of ``side`` in blocks; the number of stages is the size."""

    def configure(stages: int) -> Configure:
        return butterfly(side=side, scale=scale, block_size=block_size, stages=stages)

    kind = f"butterfly_block {block_size}" if block_size else "butterfly"
    name = f"{kind}, {'narrower side' if side == 'auto' else side}{', output magnitudes' if scale else ''}"
    short = "-".join(["butterfly", side, *(["scale"] if scale else []), *([str(block_size)] if block_size else [])])
    return Family(short, name, configure, 3e-2, size_text="{} stages", always=always)


def _ranked(short: str, name: str, config: Callable[..., Any], rate: float, **options: Any) -> Family:
    """A method of PEFT with a rank, and with ``alpha=True`` a scale of twice the rank, as for LoRA."""
    with_alpha, sizes = options.pop("alpha", False), options.pop("sizes", RANKS)

    def configure(rank: int) -> Configure:
        return peft_method(config, r=rank, **({"alpha": 2 * rank} if with_alpha else {}), **options)

    return Family(short, name, configure, rate, sizes, size_text="r={}")


def _sized(short: str, name: str, config: Callable[..., Any], rate: float, option: str, **more: Any) -> Family:
    """A method of PEFT whose size is ``option`` of ``config``."""
    sizes, size_text, always = more.pop("sizes"), more.pop("size_text", ""), more.pop("always", False)

    def configure(size: Any) -> Configure:
        return peft_method(config, **{option: size}, **more)

    return Family(short, name, configure, rate, sizes, size_text, always)


LORA = _lora("lora", "LoRA", always=True)
FAMILIES = (
    LORA,
    _lora("dora", "DoRA", use_dora=True),
    _butterfly("auto", False, always=True),
    _butterfly("input", False),
    _butterfly("output", False),
    _butterfly("both", False),
    _butterfly("auto", True, always=True),
    _butterfly("input", True),
    _butterfly("output", True),
    _butterfly("both", True, always=True),
    _butterfly("both", True, 16),
    _butterfly("both", True, 64),
    _sized(
        "oft", "OFT", peft.OFTConfig, 3e-2, "oft_block_size", sizes=BLOCK_SIZES, size_text="blocks of {}", always=True
    ),
    # Without its CUDA kernel PEFT sets BOFT's factor to 1, which leaves one block-diagonal rotation.
    _sized(
        "boft", "BOFT (factor 1)", peft.BOFTConfig, 3e-2, "boft_block_size", sizes=BLOCK_SIZES, size_text="blocks of {}"
    ),
    _ranked("hra", "HRA", peft.HRAConfig, 1e-2, sizes=RANKS[1::2]),  # with an odd rank it does not start as the base
    _ranked("psoft", "PSOFT", peft.PsoftConfig, 1e-2),
    _sized("ia3", "IA3", peft.IA3Config, 3e-2, "feedforward_modules", sizes=([],)),
    _sized("road", "RoAd", peft.RoadConfig, 3e-2, "variant", sizes=("road_1", "road_2", "road_4"), size_text="{}"),
    _sized("vera", "VeRA", peft.VeraConfig, 1e-2, "r", sizes=COUNTS, size_text="r={}"),
    _ranked("loha", "LoHa", peft.LoHaConfig, 2e-2, alpha=True),
    _ranked("lokr", "LoKr", peft.LoKrConfig, 2e-2, alpha=True),
    _ranked("miss", "MiSS", peft.MissConfig, 1e-2),
    _ranked("shira", "SHiRA", peft.ShiraConfig, 1e-2),
    _ranked("delora", "DeLoRA", peft.DeloraConfig, 2e-2),
    _ranked("hira", "HiRA", peft.HiraConfig, 1e-2),
    _sized("c3a", "C3A", peft.C3AConfig, 1e-2, "block_size", sizes=BLOCK_SIZES[::-1], size_text="blocks of {}"),
    _sized("fourierft", "FourierFT", peft.FourierFTConfig, 1e-2, "n_frequency", sizes=COUNTS, size_text="n={}"),
)
FAMILY_NAMES = tuple(family.short for family in FAMILIES)
