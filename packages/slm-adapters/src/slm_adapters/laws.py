"""What must hold for a rotation, as Hypothesis strategies and checks: ``check(3072, stages=12)`` runs all laws.

A law takes a rotation and its angles, ``[blocks, angles of a block]``, in the dtype and on the device in which it
is to hold, and raises AssertionError where it does not. Needs the extra ``slm-adapters[laws]``. The laws of
adapted layers and models are in ``layer_laws``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from slm_adapters.butterfly.reference import rotate_reference
from slm_adapters.butterfly.rotate import rotate, rotate_back, rotation_matrix
from slm_adapters.butterfly.structure import MAX_STAGES, Rotation, divisors

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError as missing:
    raise ImportError("slm_adapters.laws needs hypothesis; install slm-adapters[laws]") from missing

Law = Callable[[Rotation, Tensor], None]

# How far apart equal things may be, as a share of the length of what was rotated.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
# Multiplications for each coordinate and stage beyond the size of the stage's own groups.
MOST_PER_STAGE = 256
_ROWS = 3


@st.composite
def rotations(draw: st.DrawFn, max_width: int = 64, widths: Sequence[int] | None = None) -> Rotation:
    """Any rotation: its width (of ``widths``, or up to ``max_width``), a block that divides it, up to three sweeps."""
    width = draw(st.sampled_from(widths) if widths else st.integers(2, max_width))
    full = Rotation.of(width, draw(st.sampled_from(divisors(width))))
    return Rotation.of(width, full.block_size, draw(st.integers(1, min(3 * full.stages, MAX_STAGES))))


@st.composite
def angles(
    draw: st.DrawFn, rotation: Rotation, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Tensor:
    """Finite angles of ``rotation``, ``[blocks, angles of a block]``: a handful of values, among them multiples of
    pi / 2, tiny and huge ones, each in random places."""
    finite = st.floats(allow_nan=False, allow_infinity=False, width=64 if dtype == torch.float64 else 32)
    quarters = st.integers(-8, 8).map(lambda quarter: quarter * torch.pi / 2)
    values = draw(st.lists(finite | quarters | st.floats(-4, 4), min_size=1, max_size=8))
    places = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    chosen = torch.randint(len(values), rotation.angle_shape, generator=places)
    return torch.tensor(values, dtype=torch.float64).to(dtype)[chosen].to(device)


def orthogonal(rotation: Rotation, angles: Tensor) -> None:
    """max |R^T R - I|, computed in float64 of the matrix as it is applied, is within TOLERANCE."""
    matrix = rotation_matrix(angles, rotation, angles.dtype).double()
    eye = torch.eye(rotation.width, dtype=torch.float64, device=angles.device)
    _at_most(matrix.T @ matrix - eye, TOLERANCE[angles.dtype])


def norm_preserved(rotation: Rotation, angles: Tensor) -> None:
    """|R x| = |x| for each row."""
    x = _rows(rotation, angles)
    length = x.double().norm(dim=-1)
    _at_most((rotate(x, angles, rotation).double().norm(dim=-1) - length) / length, TOLERANCE[angles.dtype])


def inverse(rotation: Rotation, angles: Tensor) -> None:
    """Rotating back undoes a rotation, and a rotation undoes rotating back."""
    x = _rows(rotation, angles)
    _close(rotate_back(rotate(x, angles, rotation), angles, rotation), x, _lengths(x))
    _close(rotate(rotate_back(x, angles, rotation), angles, rotation), x, _lengths(x))


def determinant_one(rotation: Rotation, angles: Tensor) -> None:
    """det R = 1: no reflection. Cubic in the width."""
    sign, logarithm = torch.linalg.slogdet(rotation_matrix(angles, rotation, angles.dtype).double())
    assert sign == 1, f"the determinant has the sign {float(sign)}"
    _at_most(logarithm, rotation.width * TOLERANCE[angles.dtype])


def identity_at_zero(rotation: Rotation, angles: Tensor) -> None:
    """Angles of zero change no bit."""
    x = _rows(rotation, angles)
    assert torch.equal(rotate(x, torch.zeros_like(angles), rotation), x), "angles of zero change the input"
    assert torch.equal(rotate_back(x, torch.zeros_like(angles), rotation), x), "angles of zero change the way back"


def fast_equals_reference(rotation: Rotation, angles: Tensor) -> None:
    """``rotate`` and its gradients are those of the definition, plane by plane, in float64."""
    x, back = _rows(rotation, angles), _rows(rotation, angles, seed=1)
    y, x_fast, angles_fast = _with_gradients(rotate, x, angles, rotation, back)
    y_exact, x_exact, angles_exact = _with_gradients(
        rotate_reference, x.double(), angles.double(), rotation, back.double()
    )
    _close(y, y_exact, _lengths(x))
    _close(x_fast, x_exact, _lengths(back))
    _close(angles_fast, angles_exact, x.double().norm() * back.double().norm())


def linear(rotation: Rotation, angles: Tensor) -> None:
    """R(a x + b y) = a R x + b R y."""
    x, y, a, b = _rows(rotation, angles), _rows(rotation, angles, seed=1), 3.0, -0.7
    together = rotate(a * x + b * y, angles, rotation)
    apart = a * rotate(x, angles, rotation).double() + b * rotate(y, angles, rotation).double()
    _close(together, apart, abs(a) * _lengths(x) + abs(b) * _lengths(y))


def linear_cost(rotation: Rotation, angles: Tensor) -> None:
    """Each stage costs as if it were alone: a stage of pairs has width / 2 angles, one of groups of p has at most
    2 ceil(log2 p) - 1 layers of width / 2; and a row costs no more than width * (p + MOST_PER_STAGE)
    multiplications for each, where a dense matrix costs width for each coordinate."""
    counts = [stage.angle_count * rotation.blocks for stage in rotation.ladder]
    layers = [2 * (stage.radix - 1).bit_length() - 1 for stage in rotation.ladder]
    assert angles.numel() == sum(counts), f"{angles.numel()} angles, but the stages have {counts}"
    for count, most, stage in zip(counts, layers, rotation.ladder, strict=True):
        least = rotation.width // 2 if stage.radix == 2 else rotation.width - rotation.width // stage.radix
        assert least <= count <= most * rotation.width / 2, f"{stage} has {count} angles"
    with FlopCounterMode(display=False) as counter:
        rotate(_rows(rotation, angles), angles, rotation)
    made = counter.get_total_flops() / (2 * _ROWS)  # a multiplication and an addition
    most = rotation.width * sum(stage.radix + MOST_PER_STAGE for stage in rotation.ladder)
    assert made <= most, f"{made} multiplications for a row, above {most}"


LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        orthogonal,
        norm_preserved,
        inverse,
        determinant_one,
        identity_at_zero,
        fast_equals_reference,
        linear,
        linear_cost,
    )
}


def check(
    width: int,
    block_size: int | None = None,
    stages: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    examples: int = 50,
) -> None:
    """Run every law on this shape with ``examples`` sets of angles each.

    Raises AssertionError with the law's name, the shape and the simplest angles found; AdapterError for a block that
    does not divide the width.
    """
    rotation = Rotation.of(width, block_size, stages)
    for name, law in LAWS.items():
        try:
            _run(law, rotation, angles(rotation, dtype, device), examples)
        except AssertionError as broken:
            raise AssertionError(f"{name} does not hold for {rotation} in {dtype} on {device}: {broken}") from broken


def _run(law: Law, rotation: Rotation, drawn: st.SearchStrategy[Tensor], examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None)
    @given(drawn)
    def holds(some: Tensor) -> None:
        law(rotation, some)

    holds()


def _rows(rotation: Rotation, like: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(_ROWS, rotation.width, generator=generator, dtype=torch.float64).to(like)


def _lengths(x: Tensor) -> Tensor:
    return x.double().norm(dim=-1, keepdim=True)


def _with_gradients(
    turn: Callable[[Tensor, Tensor, Rotation], Tensor], x: Tensor, angles: Tensor, rotation: Rotation, back: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    x, angles = x.detach().requires_grad_(), angles.detach().requires_grad_()
    y = turn(x, angles, rotation)
    of_x, of_angles = torch.autograd.grad(y, (x, angles), back)
    return y.detach(), of_x, of_angles


def _close(found: Tensor, wanted: Tensor, length: Tensor) -> None:
    _at_most((found.double() - wanted.double()) / length, TOLERANCE[found.dtype])


def _at_most(error: Tensor, bound: float) -> None:
    worst = float(error.abs().max())
    assert worst <= bound, f"off by {worst:.3g}, above {bound:.3g}"  # no number is not within it either
