"""Structure of a butterfly rotation: which coordinates each stage rotates, for any width.

A block of ``b = p_1 p_2 ... p_k`` coordinates (primes, ascending) is read as a number of k digits. Stage i rotates
coordinates that differ in digit i only: pairs at stride 1, 2, 4 ... for the factors of two (the strides of the FFT),
triples at stride 256 for the factor three of 768. After all k stages every output depends on every input, because
every digit has been mixed. Further stages start again at the first digit.

Within a digit of an odd prime p, values are paired at distances 1, 2, 4 ... and then back to 1 (1, 2, 1 for a triple:
its three Euler angles). With these 2 ceil(log2 p) - 1 layers of planes each of the p values reaches each other one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from slm_adapters.errors import AdapterError

MAX_STAGES = 64

Plane = tuple[int, int]


@dataclass(frozen=True)
class Stage:
    """Rotates ``outer * stride`` groups of ``radix`` coordinates that are ``stride`` apart."""

    radix: int
    stride: int
    outer: int

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Pairs of digit values, in the order in which they are rotated."""
        return _planes(self.radix)

    @property
    def angle_shape(self) -> tuple[int, int, int]:
        """``[planes, outer, stride]``: an angle for each plane of each group."""
        return len(self.planes), self.outer, self.stride

    @property
    def angle_count(self) -> int:
        """Angles of the stage in one block."""
        planes, outer, stride = self.angle_shape
        return planes * outer * stride


@dataclass(frozen=True)
class Rotation:
    """A rotation of ``width`` coordinates, in blocks of ``block_size`` with ``stages`` stages each.

    ``Rotation.of`` has defaults for the block size and the stages. Raises AdapterError for a block size that does not
    divide the width, and for a number of stages out of range.
    """

    width: int
    block_size: int
    stages: int

    @classmethod
    def of(cls, width: int, block_size: int | None = None, stages: int | None = None) -> Rotation:
        """Create a rotation. Defaults: the full width as one block, and as many stages as mix a block fully."""
        block = width if block_size is None else block_size
        _check_block(width, block)
        return cls(width, block, full_stages(block) if stages is None else stages)

    def __post_init__(self) -> None:
        _check_block(self.width, self.block_size)
        check_stages(self.stages)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.width // self.block_size

    @cached_property
    def stage_sequence(self) -> tuple[Stage, ...]:
        """The stages of a block, in the order in which they rotate."""
        sweep = _full_sweep(self.block_size)
        return tuple(sweep[index % len(sweep)] for index in range(self.stages))

    @cached_property
    def angle_shape(self) -> tuple[int, int]:
        """``[blocks, angles of a block]``.

        For a given width, each combination of block size and stages has a different shape, so that a checkpoint of
        another rotation is noticed.
        """
        return self.blocks, sum(stage.angle_count for stage in self.stage_sequence)

    @property
    def angle_count(self) -> int:
        """Angles of all blocks."""
        blocks, angles = self.angle_shape
        return blocks * angles

    def __deepcopy__(self, memo: object) -> Rotation:
        return self  # immutable; a copy would compute the cached stages again


def full_stages(block_size: int) -> int:
    """Return the number of stages after which every output of a block depends on every input: its prime factors."""
    return len(prime_factors(block_size))


def check_stages(stages: int) -> None:
    """Raise AdapterError unless ``stages`` is from 1 to MAX_STAGES."""
    if not 1 <= stages <= MAX_STAGES:
        raise AdapterError(
            f"butterfly stages {stages} must be from 1 to {MAX_STAGES}; log2 of the block size mixes a block fully"
        )


@lru_cache
def prime_factors(number: int) -> tuple[int, ...]:
    """Return the prime factors of ``number``, ascending, with multiplicity."""
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return (*factors, number) if number > 1 else tuple(factors)


def divisors(number: int) -> list[int]:
    """Return the divisors of ``number``, ascending, without 1."""
    return [d for d in range(2, number + 1) if number % d == 0]


@lru_cache
def _full_sweep(block_size: int) -> tuple[Stage, ...]:
    """The stages that mix each digit once."""
    return tuple(_stages_by_digit(block_size))


def _stages_by_digit(block_size: int) -> Iterator[Stage]:
    stride = 1
    for radix in prime_factors(block_size):
        yield Stage(radix, stride, block_size // (radix * stride))
        stride *= radix


def plane_distances(radix: int) -> list[int]:
    """Return the distance of the paired values in each layer of planes: 1, 2, 4 ... and back to 1."""
    ascending = [2**power for power in range((radix - 1).bit_length())]
    return [*ascending, *reversed(ascending[:-1])]


@lru_cache
def _planes(radix: int) -> tuple[Plane, ...]:
    # Distances are powers of two: where that bit of the lower value is 0, the pairs of a layer are disjoint.
    return tuple(
        (low, low + distance)
        for distance in plane_distances(radix)
        for low in range(radix - distance)
        if not low & distance
    )


def _check_block(width: int, block: int) -> None:
    if width < 2:
        raise AdapterError(f"width {width} has no plane to rotate in; it must be at least 2")
    if not 2 <= block <= width or width % block:
        fitting = ", ".join(map(str, divisors(width)[-12:]))
        raise AdapterError(f"butterfly block size {block} does not divide the width {width}; use one of {fitting}")
