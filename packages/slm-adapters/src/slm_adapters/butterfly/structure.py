"""The structure of a butterfly: which coordinates each stage rotates, for a width of any kind.

A block of ``b = p_1 p_2 ... p_k`` coordinates (primes, ascending) is read as a number of k digits. Stage i
rotates the coordinates that differ in digit i alone: pairs at stride 1, 2, 4 ... for the digits of two (the
FFT's ladder), triples at stride 256 for the three of 768. After all k stages every input has reached every
output, because every digit has been mixed. Further stages climb the ladder again from its first step.

Within a digit of an odd prime p, planes are taken at distances 1, 2, 4 ... and back (1, 2, 1 for a triple: its
three Euler angles), so that each of the p values reaches each other in 2 ceil(log2 p) - 1 layers of planes.
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
    """Rotates ``outer * stride`` groups of ``radix`` coordinates that lie ``stride`` apart."""

    radix: int
    stride: int
    outer: int

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Pairs of digit values, in the order in which they rotate."""
        return _planes(self.radix)

    @property
    def angle_shape(self) -> tuple[int, int, int]:
        """``[planes, outer, stride]``: an angle for each plane of each group."""
        return len(self.planes), self.outer, self.stride

    @property
    def angle_count(self) -> int:
        planes, outer, stride = self.angle_shape
        return planes * outer * stride


@dataclass(frozen=True)
class Rotation:
    """A rotation of ``width`` coordinates, in blocks of ``block_size`` with ``stages`` stages each.

    ``Rotation.of`` fills in what is left open. Raises AdapterError for a block that does not divide the width.
    """

    width: int
    block_size: int
    stages: int

    @classmethod
    def of(cls, width: int, block_size: int | None = None, stages: int | None = None) -> Rotation:
        """Full width without ``block_size``; without ``stages`` as many as mix a block fully."""
        block = width if block_size is None else block_size
        _check_block(width, block)
        return cls(width, block, full_stages(block) if stages is None else stages)

    def __post_init__(self) -> None:
        _check_block(self.width, self.block_size)
        check_stages(self.stages)

    @property
    def blocks(self) -> int:
        return self.width // self.block_size

    @cached_property
    def ladder(self) -> tuple[Stage, ...]:
        """The stages of a block, in the order in which they rotate."""
        steps = _ladder(self.block_size)
        return tuple(steps[at % len(steps)] for at in range(self.stages))

    @property
    def angle_shape(self) -> tuple[int, int]:
        """``[blocks, angles of a block]``. For a given width it tells block size and stages apart, so that a
        checkpoint made for others does not fit."""
        return self.blocks, sum(stage.angle_count for stage in self.ladder)

    @property
    def angle_count(self) -> int:
        blocks, angles = self.angle_shape
        return blocks * angles

    def __deepcopy__(self, memo: object) -> Rotation:
        return self


def full_stages(block_size: int) -> int:
    """Stages after which every coordinate of a block has reached every other: its prime factors, counted."""
    return len(prime_factors(block_size))


def check_stages(stages: int) -> None:
    """Raises AdapterError unless ``stages`` is from 1 to MAX_STAGES."""
    if not 1 <= stages <= MAX_STAGES:
        raise AdapterError(
            f"butterfly stages {stages} must be from 1 to {MAX_STAGES}; log2 of the block mixes it fully"
        )


@lru_cache
def prime_factors(number: int) -> tuple[int, ...]:
    """Ascending, each as often as it divides."""
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return (*found, number) if number > 1 else tuple(found)


def divisors(number: int) -> list[int]:
    """Ascending, without 1."""
    return [d for d in range(2, number + 1) if number % d == 0]


@lru_cache
def _ladder(block_size: int) -> tuple[Stage, ...]:
    return tuple(_climb(block_size))


def _climb(block_size: int) -> Iterator[Stage]:
    stride = 1
    for radix in prime_factors(block_size):
        yield Stage(radix, stride, block_size // (radix * stride))
        stride *= radix


@lru_cache
def _planes(radix: int) -> tuple[Plane, ...]:
    up = [2**s for s in range((radix - 1).bit_length())]
    distances = [*up, *reversed(up[:-1])]
    return tuple((low, low + d) for d in distances for low in range(radix - d) if not low & d)


def _check_block(width: int, block: int) -> None:
    if width < 2:
        raise AdapterError(f"width {width} has no plane to rotate in; it must be at least 2")
    if not 2 <= block <= width or width % block:
        fitting = ", ".join(map(str, divisors(width)[-12:]))
        raise AdapterError(f"butterfly block size {block} does not divide the width {width}; use one of {fitting}")
