"""Rotations whose matrix is known: Kronecker products, Hadamard, Euler angles, permutations, the FFT."""

import math
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_adapters import Rotation, rotate, rotate_reference, rotation_matrix

F64 = torch.float64


def rotation_2x2(angle: float) -> torch.Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=F64)


def kron(matrices: list[torch.Tensor]) -> torch.Tensor:
    """Return the Kronecker product of ``matrices``, in reverse order: the first one belongs to the lowest digit."""
    return reduce(lambda lower, higher: torch.kron(higher, lower), matrices)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6))
def test_one_angle_a_stage_is_the_kronecker_product_of_turns(stage_angles: list[float]) -> None:
    rotation = Rotation.of(2 ** len(stage_angles))
    angles = torch.tensor(stage_angles, dtype=F64).repeat_interleave(rotation.width // 2)[None]
    expected = kron([rotation_2x2(angle) for angle in stage_angles])
    torch.testing.assert_close(rotation_matrix(angles, rotation), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("power", [1, 2, 5, 8])
def test_an_eighth_of_a_turn_everywhere_is_a_hadamard_matrix(power: int) -> None:
    n = 2**power
    rotation = Rotation.of(n)
    matrix = rotation_matrix(torch.full(rotation.angle_shape, math.pi / 4, dtype=F64), rotation)
    sylvester = kron([torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=F64)] * power)
    torch.testing.assert_close(matrix, sylvester / math.sqrt(n), rtol=0, atol=1e-14)
    torch.testing.assert_close(matrix.abs(), torch.full((n, n), n**-0.5, dtype=F64), rtol=0, atol=1e-14)


def test_euler_angles_turn_a_triple_as_three_matrices_do() -> None:
    a, b, c = 0.3, -1.1, 2.0
    around_third = [torch.block_diag(rotation_2x2(angle), torch.ones(1, 1, dtype=F64)) for angle in (a, c)]
    around_second = torch.eye(3, dtype=F64)
    around_second[::2, ::2] = rotation_2x2(b)
    expected = around_third[1] @ around_second @ around_third[0]
    angles = torch.tensor([[a, b, c]], dtype=F64)
    torch.testing.assert_close(rotation_matrix(angles, Rotation.of(3)), expected, rtol=0, atol=1e-15)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_rotation_of_three_coordinates_can_be_reached(seed: int) -> None:
    normal = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    target = torch.linalg.qr(normal).Q
    target = target * torch.linalg.det(target)
    # R = T(c) U(b) T(a), T in the plane (0, 1) and U in (0, 2): the last row and column determine the angles.
    b = math.acos(max(-1.0, min(1.0, float(target[2, 2]))))
    a = math.atan2(-float(target[2, 1]), float(target[2, 0]))
    c = math.atan2(-float(target[1, 2]), -float(target[0, 2]))
    actual = rotation_matrix(torch.tensor([[a, b, c]], dtype=F64), Rotation.of(3))
    torch.testing.assert_close(actual, target, rtol=0, atol=1e-7)  # the arc cosine is imprecise near 1


@pytest.mark.parametrize("width", [2, 6, 35, 768])
def test_whole_turns_are_the_identity(width: int) -> None:
    rotation = Rotation.of(width)
    angles = torch.full(rotation.angle_shape, 2 * math.pi, dtype=F64)
    torch.testing.assert_close(rotation_matrix(angles, rotation), torch.eye(width, dtype=F64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("width", [8, 12, 35])
def test_quarter_turns_are_permutations_with_signs(width: int) -> None:
    rotation = Rotation.of(width, stages=5)
    quarters = torch.randint(-3, 4, rotation.angle_shape, generator=torch.Generator().manual_seed(0))
    matrix = rotation_matrix(quarters.to(F64) * (math.pi / 2), rotation)
    magnitude = matrix.abs().round()
    torch.testing.assert_close(matrix.abs(), magnitude, rtol=0, atol=1e-13)
    assert (magnitude.sum(dim=0) == 1).all()
    assert (magnitude.sum(dim=1) == 1).all()
    assert not torch.equal(magnitude, torch.eye(width, dtype=F64))


@pytest.mark.parametrize("stage", range(4))
def test_a_stage_of_quarter_turns_swaps_coordinates_a_stride_apart(stage: int) -> None:
    rotation = Rotation.of(16)
    angles = torch.zeros(rotation.stages, 8, dtype=F64)
    angles[stage] = math.pi / 2
    x = torch.arange(1.0, 17.0, dtype=F64)
    swapped = rotate(x, angles.reshape(1, -1), rotation)
    high = (torch.arange(16) >> stage) & 1
    expected = torch.where(high == 1, 1.0, -1.0) * x[torch.arange(16) ^ (1 << stage)]
    torch.testing.assert_close(swapped, expected, rtol=0, atol=1e-14)


def bit_reversed(n: int) -> list[int]:
    digits = n.bit_length() - 1
    return [int(f"{k:0{digits}b}"[::-1], 2) for k in range(n)]


def fft_rotation(n: int) -> tuple[Rotation, torch.Tensor]:
    """Return the unitary DFT of n complex points in bit-reversed order, as a rotation of 2 n real coordinates.

    Coordinate 2 k is the real part of point k, coordinate 2 k + 1 its imaginary part. A Cooley-Tukey step combines
    points at distance d: it multiplies the upper one by its twiddle factor, then maps (a, b) to
    (a + b, a - b) / sqrt 2. Here, the stage at stride 1 multiplies points by a phase. The stage at stride 2 d with an
    angle of -pi / 4 maps (a, b) to (a + b, b - a) / sqrt 2, and a phase of half a turn in the next sweep corrects the
    sign. Each step is one sweep over the digits, in which all other stages have zero angles.
    """
    steps = n.bit_length() - 1
    per_sweep = steps + 1
    rotation = Rotation.of(2 * n, stages=(steps + 1) * per_sweep)
    angles = torch.zeros(steps + 1, per_sweep, n, dtype=F64)
    points = torch.arange(n, dtype=F64)
    for step in range(steps):
        distance = 2**step
        upper = points // distance % 2 == 1
        angles[step, 0] += torch.where(upper, -math.pi * (points % distance) / distance, 0.0)
        angles[step, step + 1] = -math.pi / 4
        angles[step + 1, 0] += math.pi * upper.to(F64)
    return rotation, angles.reshape(1, -1)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_the_stages_can_compute_the_fft(n: int) -> None:
    rotation, angles = fft_rotation(n)
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(5, n, dtype=torch.complex128, generator=generator)
    reordered = torch.view_as_real(signal[:, bit_reversed(n)]).reshape(5, 2 * n)
    expected = torch.fft.fft(signal, norm="ortho")
    for rotated in (rotate(reordered, angles, rotation), rotate_reference(reordered, angles, rotation)):
        actual = torch.view_as_complex(rotated.reshape(5, n, 2).contiguous())
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_rotating_back_is_the_inverse_fft() -> None:
    rotation, angles = fft_rotation(8)
    spectrum = torch.randn(8, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    rotated = rotate_reference(torch.view_as_real(spectrum).reshape(16), angles, rotation, inverse=True)
    actual = torch.view_as_complex(rotated.reshape(8, 2).contiguous())
    expected = torch.fft.ifft(spectrum, norm="ortho")[bit_reversed(8)]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
