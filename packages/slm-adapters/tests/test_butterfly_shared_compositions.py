"""Layers compose their rotations together: the same bits as each alone, never out of date, nothing kept alive."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

from slm_adapters import ButterflyConfig
from slm_adapters.butterfly import joint_composition
from slm_adapters.butterfly.method import layer as layer_module
from slm_adapters.butterfly.method import shared_compositions
from slm_adapters.butterfly.method.inference_cache import TensorSnapshot
from slm_testing.adapters.cache_changes import CHANGES, Change, CosineCounter, OperationCounter
from slm_testing.adapters.chains import Gradients, chain, cosines, gradients, inputs, loss, one_by_one
from slm_testing.adapters.tiny_adapters import SETTINGS, assert_same_bits, butterfly_layer, randomize_angles


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


def micro_batch_operations(config: Any, width: int, blocks: int, input_ids: torch.Tensor) -> int:
    """Return how many operations forward and backward take under autocast, after an optimizer step."""
    torch.manual_seed(0)
    sizes = {"n_embd": width, "n_layer": blocks, "n_head": 2, "n_positions": 32, "vocab_size": 48}
    base = GPT2LMHeadModel(GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **sizes))
    model = get_peft_model(base, config).train()
    optimizer = torch.optim.SGD([values for values in model.parameters() if values.requires_grad], lr=0.1)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            value = model(input_ids=input_ids, labels=input_ids, use_cache=False).loss
        value.backward()

    for _ in range(2):  # layers are composed together from the second pass on, which creates their index
        run()
        optimizer.step()
        optimizer.zero_grad()
    with OperationCounter() as counter:
        run()
    return counter.count


@pytest.mark.parametrize(
    ("width", "blocks", "targets"),
    [
        pytest.param(128, 10, ["c_attn", "c_proj", "c_fc"], id="every layer, full width"),
        pytest.param(256, 6, ["c_attn", "c_proj"], id="distilgpt2's layers and factors, with a width of one block"),
    ],
)
def test_a_micro_batch_takes_fewer_operations_than_with_lora(
    width: int, blocks: int, targets: list[str], input_ids: torch.Tensor
) -> None:
    butterfly = ButterflyConfig(task_type="CAUSAL_LM", target_modules=targets)
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=targets, r=16)
    counts = [micro_batch_operations(config, width, blocks, input_ids) for config in (butterfly, lora)]
    assert counts[0] < counts[1]


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


class Products(TorchDispatchMode):
    """Records the types of matrix products in a composition, which TF32 (``--tf32``) would round if it were float32."""

    def __init__(self) -> None:
        super().__init__()
        self.composing = False
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_product = func.overloadpacket.__name__ in ("mm", "bmm", "addmm", "baddbmm", "dot", "mv", "addmv", "linear")
        if self.composing and is_product:
            self.types.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_setting_of_tf32_reaches_a_composition_or_its_gradients(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    block = {"block_size": 8} if "block_size" in settings else {}
    model, products, calls = chain(5, **{"block_size": None, **settings, **block}), Products(), list[str]()

    def watched(name: str) -> Any:
        usual = getattr(joint_composition, name)

        def call(angles: torch.Tensor, *rest: Any) -> Any:
            assert angles.dtype == torch.float64  # cosines and products of angles; rounded once, to the type of x
            calls.append(name)
            products.composing = True
            try:
                return usual(angles, *rest)
            finally:
                products.composing = False

        return call

    for name in ("compose_layers", "angle_gradients"):
        monkeypatch.setattr(joint_composition, name, watched(name))
    randomize_angles(model, seed=4)
    with products:
        gradients(model, loss(model))
    assert set(calls) == {"compose_layers", "angle_gradients"}
    assert products.types == []
