"""Properties of every rotation, as Hypothesis strategies and checks: ``check(3072, stages=12)`` runs all of them.

A law is a function of a rotation and angles ``[blocks, angles of a block]``, in the dtype and on the device to check.
It raises AssertionError if it does not hold. Needs the extra ``slm-adapters[laws]``. Laws of adapted layers and models
are in ``layer_laws``.
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
except ImportError as error:
    raise ImportError("slm_adapters.laws needs hypothesis; install slm-adapters[laws]") from error

Law = Callable[[Rotation, Tensor], None]

# Largest error, as a share of the length of the rotated vector.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
# Multiplications for each coordinate and stage besides the size of the stage's own groups.
MAX_PER_STAGE = 256
_ROWS = 3


@st.composite
def rotations(draw: st.DrawFn, max_width: int = 64, widths: Sequence[int] | None = None) -> Rotation:
    """Draw a rotation: a width (of ``widths``, or up to ``max_width``), a block size, and up to three sweeps."""
    width = draw(st.sampled_from(widths) if widths else st.integers(2, max_width))
    full = Rotation.of(width, draw(st.sampled_from(divisors(width))))
    return Rotation.of(width, full.block_size, draw(st.integers(1, min(3 * full.stages, MAX_STAGES))))


@st.composite
def angles(
    draw: st.DrawFn, rotation: Rotation, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Tensor:
    """Draw finite angles of ``rotation``, ``[blocks, angles of a block]``.

    They have up to eight different values, including multiples of pi / 2, tiny and huge ones, at random positions.
    """
    finite = st.floats(allow_nan=False, allow_infinity=False, width=64 if dtype == torch.float64 else 32)
    quarters = st.integers(-8, 8).map(lambda quarter: quarter * torch.pi / 2)
    values = draw(st.lists(finite | quarters | st.floats(-4, 4), min_size=1, max_size=8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    index = torch.randint(len(values), rotation.angle_shape, generator=generator)
    return torch.tensor(values, dtype=torch.float64).to(dtype)[index].to(device)


def orthogonal(rotation: Rotation, angles: Tensor) -> None:
    """max |R^T R - I| is within TOLERANCE, computed in float64 from the matrix as it is applied."""
    matrix = rotation_matrix(angles, rotation, angles.dtype).double()
    eye = torch.eye(rotation.width, dtype=torch.float64, device=angles.device)
    _check_bound(matrix.T @ matrix - eye, TOLERANCE[angles.dtype])


def norm_preserved(rotation: Rotation, angles: Tensor) -> None:
    """|R x| = |x| for each row."""
    x = _rows(rotation, angles)
    length = x.double().norm(dim=-1)
    _check_bound((rotate(x, angles, rotation).double().norm(dim=-1) - length) / length, TOLERANCE[angles.dtype])


def inverse(rotation: Rotation, angles: Tensor) -> None:
    """``rotate_back`` is the inverse of ``rotate``, on both sides."""
    x = _rows(rotation, angles)
    _check_close(rotate_back(rotate(x, angles, rotation), angles, rotation), x, _lengths(x))
    _check_close(rotate(rotate_back(x, angles, rotation), angles, rotation), x, _lengths(x))


def determinant_one(rotation: Rotation, angles: Tensor) -> None:
    """det R = 1: no reflection. The cost of this check is cubic in the width."""
    sign, logarithm = torch.linalg.slogdet(rotation_matrix(angles, rotation, angles.dtype).double())
    assert sign == 1, f"the determinant has sign {float(sign)}"
    _check_bound(logarithm, rotation.width * TOLERANCE[angles.dtype])


def identity_at_zero(rotation: Rotation, angles: Tensor) -> None:
    """Angles of zero change no bit."""
    x = _rows(rotation, angles)
    assert torch.equal(rotate(x, torch.zeros_like(angles), rotation), x), "angles of zero change a bit"
    assert torch.equal(rotate_back(x, torch.zeros_like(angles), rotation), x), "angles of zero change a bit"


def fast_equals_reference(rotation: Rotation, angles: Tensor) -> None:
    """``rotate`` and its gradients equal those of the reference in float64."""
    x, gradient = _rows(rotation, angles), _rows(rotation, angles, seed=1)
    y, x_fast, angles_fast = _with_gradients(rotate, x, angles, rotation, gradient)
    y_exact, x_exact, angles_exact = _with_gradients(
        rotate_reference, x.double(), angles.double(), rotation, gradient.double()
    )
    _check_close(y, y_exact, _lengths(x))
    _check_close(x_fast, x_exact, _lengths(gradient))
    _check_close(angles_fast, angles_exact, x.double().norm() * gradient.double().norm())


def linear(rotation: Rotation, angles: Tensor) -> None:
    """R(a x + b y) = a R x + b R y."""
    x, y, a, b = _rows(rotation, angles), _rows(rotation, angles, seed=1), 3.0, -0.7
    of_sum = rotate(a * x + b * y, angles, rotation)
    sum_of = a * rotate(x, angles, rotation).double() + b * rotate(y, angles, rotation).double()
    _check_close(of_sum, sum_of, abs(a) * _lengths(x) + abs(b) * _lengths(y))


def linear_cost(rotation: Rotation, angles: Tensor) -> None:
    """Angles and multiplications grow linearly with the number of stages.

    A stage of pairs has width / 2 angles; a stage of radix p has at most 2 ceil(log2 p) - 1 layers of width / 2. A row
    takes at most width * (p + MAX_PER_STAGE) multiplications for each stage; a dense matrix takes width * width.
    """
    counts = [stage.angle_count * rotation.blocks for stage in rotation.stage_sequence]
    layers = [2 * (stage.radix - 1).bit_length() - 1 for stage in rotation.stage_sequence]
    assert angles.numel() == sum(counts), f"{angles.numel()} angles, but the stages have {counts}"
    for count, max_layers, stage in zip(counts, layers, rotation.stage_sequence, strict=True):
        min_count = rotation.width // 2 if stage.radix == 2 else rotation.width - rotation.width // stage.radix
        assert min_count <= count <= max_layers * rotation.width / 2, f"{stage} has {count} angles"
    with FlopCounterMode(display=False) as counter:
        rotate(_rows(rotation, angles), angles, rotation)
    multiplications = counter.get_total_flops() / (2 * _ROWS)  # a flop each for multiplication and addition
    limit = rotation.width * sum(stage.radix + MAX_PER_STAGE for stage in rotation.stage_sequence)
    assert multiplications <= limit, f"{multiplications} multiplications for a row, above {limit}"


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
    """Run every law on this shape, each with ``examples`` sets of angles.

    Raises AssertionError with the law's name, the shape and the simplest angles that break it; AdapterError for a block
    size that does not divide the width.
    """
    rotation = Rotation.of(width, block_size, stages)
    for name, law in LAWS.items():
        try:
            _run(law, rotation, angles(rotation, dtype, device), examples)
        except AssertionError as error:
            raise AssertionError(f"{name} does not hold for {rotation} in {dtype} on {device}: {error}") from error


def _run(law: Law, rotation: Rotation, strategy: st.SearchStrategy[Tensor], examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None)
    @given(strategy)
    def check_law(drawn_angles: Tensor) -> None:
        law(rotation, drawn_angles)

    check_law()


def _rows(rotation: Rotation, like: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(_ROWS, rotation.width, generator=generator, dtype=torch.float64).to(like)


def _lengths(x: Tensor) -> Tensor:
    return x.double().norm(dim=-1, keepdim=True)


def _with_gradients(
    function: Callable[[Tensor, Tensor, Rotation], Tensor],
    x: Tensor,
    angles: Tensor,
    rotation: Rotation,
    y_gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    x, angles = x.detach().requires_grad_(), angles.detach().requires_grad_()
    y = function(x, angles, rotation)
    x_gradient, angle_gradient = torch.autograd.grad(y, (x, angles), y_gradient)
    return y.detach(), x_gradient, angle_gradient


def _check_close(actual: Tensor, expected: Tensor, length: Tensor) -> None:
    _check_bound((actual.double() - expected.double()) / length, TOLERANCE[actual.dtype])


def _check_bound(error: Tensor, bound: float) -> None:
    worst = float(error.abs().max())
    assert worst <= bound, f"off by {worst:.3g}, above {bound:.3g}"  # also false for nan
