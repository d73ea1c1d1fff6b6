"""The laws of a rotation on shapes of every kind, and the structure of its stages."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slm_adapters import AdapterError, Rotation, rotate, rotate_reference, rotation_matrix
from slm_adapters.butterfly.rotate import rotate_back
from slm_adapters.butterfly.structure import MAX_STAGES, divisors, full_stages
from slm_adapters.laws import LAWS, angles, rotations

DTYPES = [torch.float32, torch.float64]
quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def any_angles(rotation: Rotation, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rotation.angle_shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("law", LAWS)
@quick
@given(data=st.data())
def test_every_law_holds_for_every_shape_and_all_angles(law: str, dtype: torch.dtype, data: st.DataObject) -> None:
    rotation = data.draw(rotations(max_width=32))
    LAWS[law](rotation, data.draw(angles(rotation, dtype)))


@pytest.mark.parametrize(
    ("width", "block_size", "stages"),
    [(768, None, None), (172, None, None), (768, 16, 6), (512, 128, None), (60, 30, 9)],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_law_holds_for_shapes_of_real_models(
    width: int, block_size: int | None, stages: int | None, dtype: torch.dtype
) -> None:
    rotation = Rotation.of(width, block_size, stages)
    for law in LAWS.values():
        law(rotation, any_angles(rotation, dtype) * 5)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-13)], ids=str)
@pytest.mark.parametrize(
    "value",
    [None, math.pi / 4, -math.pi / 2, 1e-30, 1e30, 12345.678],
    ids=["random", "all-pi/4", "all-minus-pi/2", "tiny", "huge", "large"],
)
def test_twelve_stages_of_width_3072_stay_orthogonal(dtype: torch.dtype, bound: float, value: float | None) -> None:
    rotation = Rotation.of(3072, stages=12)
    given_angles = any_angles(rotation, dtype) * 3
    if value is not None:
        given_angles.fill_(value)
    columns = torch.randperm(3072, generator=torch.Generator().manual_seed(1))[:256]
    basis = torch.eye(3072, dtype=dtype)[columns]
    turned = rotate(basis, given_angles, rotation).double()  # 256 columns of R
    assert (turned @ turned.T - torch.eye(256, dtype=torch.float64)).abs().max() <= bound


def test_the_whole_matrix_of_width_3072_is_orthogonal_in_float32() -> None:
    rotation = Rotation.of(3072, stages=12)
    matrix = rotation_matrix(any_angles(rotation, torch.float32), rotation, torch.float32)
    gram = matrix.T @ matrix  # its own rounding, of sums of 3072 products, is within the bound too
    assert (gram - torch.eye(3072)).abs().max() <= 1e-6


def test_the_matrix_is_applied_to_columns_and_to_rows_as_documented() -> None:
    rotation = Rotation.of(12, stages=5)
    some, x = any_angles(rotation), torch.randn(4, 12, dtype=torch.float64)
    matrix = rotation_matrix(some, rotation)
    torch.testing.assert_close(rotate(x, some, rotation), x @ matrix.T, rtol=0, atol=1e-14)
    torch.testing.assert_close(rotate_back(x, some, rotation), x @ matrix, rtol=0, atol=1e-14)


def test_one_angle_turns_a_plane_anticlockwise() -> None:
    third = torch.tensor([[math.pi / 3]], dtype=torch.float64)
    expected = torch.tensor([[0.5, -math.sqrt(0.75)], [math.sqrt(0.75), 0.5]], dtype=torch.float64)
    torch.testing.assert_close(rotation_matrix(third, Rotation.of(2)), expected)


@pytest.mark.parametrize("width", [2, 3, 4, 5, 7, 8, 9, 15, 35, 43, 97, 128, 172, 768])
def test_full_stages_let_every_input_reach_every_output(width: int) -> None:
    rotation = Rotation.of(width)
    assert (rotation_matrix(any_angles(rotation), rotation) != 0).all()


@pytest.mark.parametrize("width", [4, 9, 15, 35, 128, 172, 768])
def test_with_one_stage_less_each_input_reaches_only_a_part_of_the_outputs(width: int) -> None:
    full = Rotation.of(width)
    rotation = Rotation.of(width, stages=full.stages - 1)
    missing = full.stage_sequence[-1].radix
    reached = rotation_matrix(any_angles(rotation), rotation) != 0
    assert (reached.sum(dim=0) == width // missing).all()


@quick
@given(rotations(max_width=60))
def test_blocks_are_independent(rotation: Rotation) -> None:
    matrix = rotation_matrix(any_angles(rotation), rotation)
    block = torch.arange(rotation.width) // rotation.block_size
    assert (matrix[block[:, None] != block[None, :]] == 0).all()


@quick
@given(rotations(max_width=60))
def test_a_block_is_rotated_by_its_own_angles_only(rotation: Rotation) -> None:
    block_rotation = Rotation.of(rotation.block_size, stages=rotation.stages)
    angles = any_angles(rotation)
    blocks = [rotation_matrix(row[None], block_rotation) for row in angles]
    torch.testing.assert_close(rotation_matrix(angles, rotation), torch.block_diag(*blocks), rtol=0, atol=1e-14)


@given(st.integers(1, 12))
def test_powers_of_two_have_log2_stages_of_half_as_many_angles(power: int) -> None:
    rotation = Rotation.of(2**power)
    assert rotation.stages == power
    assert [stage.angle_count for stage in rotation.stage_sequence] == [2**power // 2] * power
    assert [stage.stride for stage in rotation.stage_sequence] == [2**s for s in range(power)]


def test_768_has_the_strides_of_the_fft_and_then_a_stage_of_triples() -> None:
    steps = [(stage.radix, stage.stride) for stage in Rotation.of(768).stage_sequence]
    assert steps == [(2, 1), (2, 2), (2, 4), (2, 8), (2, 16), (2, 32), (2, 64), (2, 128), (3, 256)]
    assert Rotation.of(768).stage_sequence[-1].planes == ((0, 1), (0, 2), (0, 1))


@given(st.integers(2, 10_000))
def test_each_stride_is_the_product_of_the_radices_before(width: int) -> None:
    stage_sequence, mixed = Rotation.of(width).stage_sequence, 1
    for stage in stage_sequence:
        assert stage.stride == mixed
        assert stage.radix * stage.stride * stage.outer == width
        mixed *= stage.radix
    assert mixed == width


@pytest.mark.parametrize("radix", [2, 3, 5, 7, 11, 13, 43, 97])
def test_the_planes_of_a_prime_connect_all_its_values(radix: int) -> None:
    (stage,) = Rotation.of(radix).stage_sequence
    reached = [{value} for value in range(radix)]
    for u, v in stage.planes:
        assert 0 <= u < v < radix
        reached[u] = reached[v] = reached[u] | reached[v]
    assert all(len(values) == radix for values in reached)


@quick
@given(rotations(max_width=40))
def test_two_sweeps_are_the_product_of_two_rotations(rotation: Rotation) -> None:
    once = Rotation.of(rotation.width, rotation.block_size)
    twice = Rotation.of(rotation.width, rotation.block_size, 2 * once.stages)
    first, second = any_angles(once), any_angles(once, seed=1)
    product = rotation_matrix(second, once) @ rotation_matrix(first, once)
    both = rotation_matrix(torch.cat([first, second], dim=1), twice)
    torch.testing.assert_close(both, product, rtol=0, atol=1e-13)


@quick
@given(rotations(max_width=40), st.data())
def test_appended_stages_with_zero_angles_change_nothing(rotation: Rotation, data: st.DataObject) -> None:
    longer = Rotation.of(rotation.width, rotation.block_size, rotation.stages + data.draw(st.integers(1, 3)))
    angles = any_angles(rotation)
    padded = torch.zeros(longer.angle_shape, dtype=torch.float64)
    padded[:, : angles.shape[1]] = angles
    with_zeros, without = rotation_matrix(padded, longer), rotation_matrix(angles, rotation)
    torch.testing.assert_close(with_zeros, without, rtol=0, atol=1e-14)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 300).flatmap(lambda width: st.tuples(*[rotations(widths=[width])] * 2)))
def test_each_block_size_and_number_of_stages_has_its_own_shape_of_angles(pair: tuple[Rotation, Rotation]) -> None:
    first, second = pair
    assert (first.angle_shape == second.angle_shape) == (first == second)


@pytest.mark.parametrize(
    ("width", "stages"), [(2, 3), (3, 1), (5, 2), (7, 1), (6, 5), (12, 7), (21, 2), (10, 3), (8, 6)], ids=str
)
def test_gradients_equal_finite_differences(width: int, stages: int) -> None:
    rotation = Rotation.of(width, stages=stages)
    x = torch.randn(2, width, dtype=torch.float64, requires_grad=True)
    some = any_angles(rotation).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given_: rotate(*given_, rotation), (x, some))


def test_gradients_of_blocks_equal_finite_differences() -> None:
    rotation = Rotation.of(12, 6, 3)
    x = torch.randn(2, 2, 12, dtype=torch.float64, requires_grad=True)
    some = any_angles(rotation).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given_: rotate(*given_, rotation), (x, some))


@pytest.mark.parametrize("only", ["x", "angles"])
def test_skipping_one_gradient_does_not_change_the_other(only: str) -> None:
    rotation = Rotation.of(12, stages=5)
    x, some = torch.randn(3, 12, dtype=torch.float64), any_angles(rotation)

    def gradient(*expected: str) -> torch.Tensor:
        leaves = {"x": x.clone(), "angles": some.clone()}
        for name in expected:
            leaves[name].requires_grad_()
        rotate(leaves["x"], leaves["angles"], rotation).sin().sum().backward()
        actual = leaves[only].grad
        assert actual is not None
        return actual

    torch.testing.assert_close(gradient(only), gradient("x", "angles"), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(12,), (1, 12), (2, 3, 12), (0, 12), (2, 0, 12)], ids=str)
def test_each_row_is_rotated_alone_in_any_batch_shape(shape: tuple[int, ...]) -> None:
    rotation = Rotation.of(12)
    x, some = torch.randn(shape, dtype=torch.float64), any_angles(rotation)
    turned = rotate(x, some, rotation)
    assert turned.shape == shape
    torch.testing.assert_close(turned, rotate_reference(x, some, rotation), rtol=0, atol=1e-14)


def test_a_view_that_is_not_contiguous_is_rotated_and_left_as_it_was() -> None:
    rotation, whole = Rotation.of(12), torch.randn(12, 5, 24, dtype=torch.float64)
    x, before = whole.permute(1, 2, 0)[:, ::2], whole.clone()
    turned = rotate(x, any_angles(rotation), rotation)
    torch.testing.assert_close(turned, rotate_reference(x, any_angles(rotation), rotation), rtol=0, atol=1e-14)
    assert torch.equal(whole, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_error_in_half_precision_is_only_its_rounding(dtype: torch.dtype) -> None:
    rotation, x = Rotation.of(768), torch.randn(4, 768, generator=torch.Generator().manual_seed(0)).to(dtype)
    some = any_angles(rotation, torch.float32)
    turned = rotate(x, some, rotation)
    exact = rotate_reference(x.double(), some.double(), rotation)
    assert turned.dtype == dtype
    assert ((turned.double() - exact).norm() / exact.norm()) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("width", "block_size", "usable"),
    [(768, 100, "256, 384, 768"), (768, 1024, "768"), (768, 1, "768"), (768, 0, "768"), (768, -2, "768"), (7, 2, "7")],
    ids=str,
)
def test_a_block_size_that_does_not_fit_is_refused_with_those_that_do(width: int, block_size: int, usable: str) -> None:
    message = rf"block size {block_size} does not divide the width {width}; use one of .*{usable}$"
    with pytest.raises(AdapterError, match=message):
        Rotation.of(width, block_size)


@pytest.mark.parametrize("stages", [0, -1, MAX_STAGES + 1, 10**9])
def test_numbers_of_stages_out_of_range_are_refused(stages: int) -> None:
    with pytest.raises(AdapterError, match=f"stages {stages} must be from 1 to {MAX_STAGES}"):
        Rotation.of(8, stages=stages)


@pytest.mark.parametrize("width", [1, 0, -4])
def test_a_width_without_a_plane_is_refused(width: int) -> None:
    with pytest.raises(AdapterError, match=f"width {width} has no plane"):
        Rotation.of(width)


@pytest.mark.parametrize("turn", [rotate, rotate_back], ids=["rotate", "back"])
def test_shapes_that_do_not_fit_are_refused(turn: Callable[..., torch.Tensor]) -> None:
    rotation = Rotation.of(8)
    with pytest.raises(AdapterError, match=r"shape \[3, 6\]: its last dimension must be 8"):
        turn(torch.randn(3, 6), any_angles(rotation), rotation)
    for shape in ((12,), (1, 11), (2, 12), (12, 1)):
        with pytest.raises(AdapterError, match=r"but Rotation\(.*takes \[1, 12\]"):
            turn(torch.randn(3, 8), torch.zeros(shape), rotation)


def test_divisors_and_stages_equal_a_direct_computation() -> None:
    assert divisors(12) == [2, 3, 4, 6, 12]
    assert [full_stages(n) for n in (2, 7, 8, 12, 172, 768, 3072)] == [1, 1, 3, 3, 3, 9, 11]
