"""Layers compose their rotations together: the same bits as each alone, never out of date, for any use of autograd."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from slm_adapters import ButterflyConfig, ButterflyLayer
from slm_adapters.butterfly import joint_composition
from slm_adapters.butterfly.method import layer as layer_module
from slm_adapters.butterfly.method import shared_compositions
from slm_adapters.butterfly.method.inference_cache import TensorSnapshot
from slm_adapters.butterfly.method.tuner import ButterflyModel
from slm_testing.adapters.cache_changes import CHANGES, Change, CosineCounter
from slm_testing.adapters.tiny_adapters import SETTINGS, assert_same_bits, butterfly_layer, randomize_angles

Gradients = dict[str, torch.Tensor]
Run = Callable[[nn.Module], torch.Tensor]
WIDTH = 24


class Chain(nn.Module):
    """Linear layers one after the other, of which some can be left out."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(count))
        self.skipped: set[int] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            x = x if index in self.skipped else layer(x).tanh()
        return x


def chain(count: int = 4, **settings: Any) -> Any:
    """Return adapted linear layers with random angles, in training mode, whose compositions are shared."""
    torch.manual_seed(0)
    options = {"side": "both", "block_size": 12, "target_modules": r"layers\.\d+"} | settings
    tuner = ButterflyModel(Chain(count), ButterflyConfig(**options), "default")
    randomize_angles(tuner.model)
    model = tuner.model.train()
    model(inputs())  # layers take part from their second pass on
    return model


def inputs(seed: int = 1) -> torch.Tensor:
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module, *losses: torch.Tensor, retain_graph: bool = False) -> Gradients:
    model.zero_grad()
    for value in losses:
        value.backward(retain_graph=retain_graph)
    return {name: values.grad.clone() for name, values in model.named_parameters() if values.grad is not None}


def loss(model: nn.Module, seed: int = 1) -> torch.Tensor:
    values: torch.Tensor = model(inputs(seed)).square().sum()
    return values


def cosines(model: nn.Module, run: Run = loss) -> int:
    with CosineCounter() as counter:
        run(model).backward()
    return counter.count


@pytest.fixture(params=["alone", "within-rotate"])
def separate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], Any]:
    """Return a function after which each layer of a model composes its rotation itself."""

    def change(model: nn.Module) -> None:
        shared: Any = shared_compositions.SharedCompositions
        owner, name = (shared, "can_share") if request.param == "alone" else (layer_module, "is_plain")
        monkeypatch.setattr(owner, name, lambda *_: False)
        model.train()  # drops what is composed

    return change


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chunk", [2**20, 1000, 1])
def test_output_and_gradients_are_the_same_bits_as_layer_by_layer(
    settings: dict[str, Any], dtype: torch.dtype, chunk: int, separate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_composition, "CHUNK_NUMBERS", chunk)
    block = {"block_size": 8} if "block_size" in settings else {}
    model = chain(5, **{"block_size": None, **settings, **block})

    def measure() -> Gradients:
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            value = loss(model)
        return {"loss": value.detach(), **gradients(model, value)}

    together = measure()
    separate(model)
    alone = measure()
    assert len(together) > 5
    assert_same_bits(together, alone)


def test_the_first_pass_gives_the_same_bits_as_later_ones() -> None:
    model = chain()
    fresh = copy.deepcopy(model)
    assert_same_bits(gradients(fresh, loss(fresh)), gradients(model, loss(model)))


def test_compositions_are_not_repeated_for_more_layers() -> None:
    counts = [cosines(chain(count)) for count in (2, 8)]
    assert counts[0] == counts[1] > 0


def test_micro_batches_of_a_step_compose_once_on_a_cpu() -> None:
    model = chain()
    model(inputs())
    with torch.no_grad(), CosineCounter() as counter:
        model(inputs(2))
    assert counter.count == 0


def test_a_composition_counts_fewer_layers_once_one_is_gone() -> None:
    model = chain(4)
    loss(model)
    layer = weakref.ref(model.layers[3])
    del model.layers[3]
    gc.collect()
    assert layer() is None
    randomize_angles(model, seed=3)
    assert_same_bits(gradients(model, loss(model)), gradients(*(lambda m: (m, loss(m)))(copy.deepcopy(model))))


def one_by_one(model: nn.Module, run: Run) -> Gradients:
    """Return the gradients of a copy whose layers do not share."""
    alone = copy.deepcopy(model)
    for module in alone.modules():
        if isinstance(module, ButterflyLayer):
            module.compositions = shared_compositions.SharedCompositions()
    return gradients(alone, run(alone))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("counted", [False, True], ids=["cpu", "as-on-a-gpu"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "step"])
def test_a_change_of_one_layer_is_seen(
    change: Change, counted: bool, backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if counted:
        monkeypatch.setattr(TensorSnapshot, "of_copy", lambda tensor, _: TensorSnapshot.of_memory(tensor))
    model = chain()
    before = loss(model)
    if backward:
        gradients(model, before)
    with torch.no_grad():
        change(model.layers[2], model.layers[2].butterfly_input["default"])
    after = loss(model)
    assert abs(float(after - before)) > 1e-4
    assert_same_bits(gradients(model, after), one_by_one(model, loss))


def test_two_losses_of_one_forward_pass_add_up() -> None:
    model = chain()
    x = model(inputs())
    both = gradients(model, x.square().sum(), x.cos().sum(), retain_graph=True)
    apart = [gradients(model, f(model(inputs())).sum()) for f in (torch.square, torch.cos)]
    assert_same_bits(both, {name: apart[0][name] + apart[1][name] for name in both})


def test_two_forward_passes_before_a_backward_pass_each_use_their_own_angles() -> None:
    model = chain()
    expected = one_by_one(model, loss)
    first = loss(model)
    randomize_angles(model, seed=5)
    second = loss(model, seed=2)
    assert_same_bits(gradients(model, first), expected)
    assert_same_bits(gradients(model, second), one_by_one(model, lambda alone: loss(alone, seed=2)))


def test_a_layer_that_is_not_called_has_no_gradient() -> None:
    model = chain()
    for skipped in ({1, 3}, {0}, set()):
        model.skipped = skipped
        actual = gradients(model, loss(model))
        assert {name for name in actual if int(name.split(".")[1]) in skipped} == set()
        assert_same_bits(actual, one_by_one(model, loss))


def test_hooks_of_parameters_see_the_gradients_of_called_layers_only() -> None:
    model, seen = chain(), list[str]()
    model.skipped = {2}

    def note(name: str, gradient: torch.Tensor) -> torch.Tensor:
        seen.append(name)
        return 2 * gradient

    plain = gradients(model, loss(model))
    for name, values in model.named_parameters():
        if values.requires_grad:
            values.register_hook(lambda gradient, name=name: note(name, gradient))
    doubled = gradients(model, loss(model))
    assert sorted(seen) == sorted(plain)
    assert_same_bits(doubled, {name: 2 * values for name, values in plain.items()})


def test_a_frozen_layer_has_no_gradient_and_the_others_keep_theirs() -> None:
    model = chain()
    expected = gradients(model, loss(model))
    model.layers[1].requires_grad_(False)
    actual = gradients(model, loss(model))
    assert_same_bits(actual, {name: values for name, values in expected.items() if not name.startswith("layers.1.")})
    model.requires_grad_(False)
    assert not loss(model).requires_grad
    model.layers[0].butterfly_input.requires_grad_(True)
    assert list(gradients(model, loss(model))) == ["layers.0.butterfly_input.default"]


def test_the_gradient_of_one_parameter_can_be_taken() -> None:
    model = chain()
    expected = gradients(model, loss(model))
    name, values = next((n, p) for n, p in model.named_parameters() if n.endswith("2.butterfly_output.default"))
    (actual,) = torch.autograd.grad(loss(model), values)
    assert torch.equal(actual, expected[name])


def test_a_layer_called_twice_adds_its_gradients() -> None:
    model = chain(3)

    def run(chained: nn.Module) -> torch.Tensor:
        layers: Any = chained.layers
        values: torch.Tensor = layers[1](layers[2](layers[1](layers[0](inputs())))).square().sum()
        return values

    actual, expected = gradients(model, run(model)), one_by_one(model, run)
    for name, values in expected.items():
        torch.testing.assert_close(actual[name], values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("counted", [False, True], ids=["cpu", "as-on-a-gpu"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_gives_the_same_bits(
    reentrant: bool, counted: bool, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if counted:
        monkeypatch.setattr(TensorSnapshot, "of_copy", lambda tensor, _: TensorSnapshot.of_memory(tensor))
    model = chain(angle_dropout=dropout)

    def run(chained: Any, *, checkpointed: bool) -> torch.Tensor:
        torch.manual_seed(7)
        x = inputs().requires_grad_()
        for layer in chained.layers:
            x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant) if checkpointed else layer(x)
        return x.square().sum()

    for _ in range(2):
        plain = gradients(model, run(model, checkpointed=False))
        assert_same_bits(gradients(model, run(model, checkpointed=True)), plain)


def test_recomputation_does_not_compose_again() -> None:
    def run(model: Any) -> torch.Tensor:
        x = inputs().requires_grad_()
        for layer in model.layers:
            x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
        return x.square().sum()

    model = chain()
    assert cosines(model, run) == cosines(chain())


def test_a_copy_and_a_pickled_layer_do_not_depend_on_the_original() -> None:
    model = chain()
    expected = gradients(model, loss(model))
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]  # noqa: S301  # made here
    randomize_angles(model, seed=9)
    for each in copies:
        assert each.layers[0].compositions is each.layers[1].compositions is not model.layers[0].compositions
        for _ in range(2):
            assert_same_bits(gradients(each, loss(each)), expected)


def test_matrices_are_freed_when_the_angles_have_changed() -> None:
    model = chain()
    gc.disable()
    try:
        loss(model).backward()
        (group,) = model.layers[0].compositions._groups.values()
        matrix = weakref.ref(group.composition.matrices[0][0])
        randomize_angles(model, seed=2)
        loss(model)
        assert matrix() is None
    finally:
        gc.enable()


def test_layers_share_without_keeping_a_model_alive() -> None:
    model = chain()
    loss(model).backward()
    layer, reference = model.layers[0], weakref.ref(model.layers[1])
    del model
    gc.collect()
    assert reference() is None
    assert layer(inputs()).isfinite().all()


def test_angles_that_are_not_numbers_are_not_composed_again_for_each_layer() -> None:
    model = chain()
    nn.init.constant_(model.layers[1].butterfly_input["default"], float("nan"))
    assert cosines(model) == cosines(chain())


def test_a_layer_outside_of_a_model_composes_alone() -> None:
    layer = butterfly_layer().train()
    x = torch.randn(3, 16)
    first, second = layer(x), layer(x)
    assert torch.equal(first, second)
