"""``torch.compile`` of adapted models: the same values and gradients, and no stale graph after any change."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch._dynamo.utils import counters

from slm_adapters import ButterflyConfig
from slm_testing.adapters.tiny_adapters import randomize_angles

FORWARD_AND_BACKWARD, EVALUATION = "forward and backward", "evaluation"
both_modes = pytest.mark.parametrize("mode", [FORWARD_AND_BACKWARD, EVALUATION])


@pytest.fixture(autouse=True)
def _no_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def adapted_layers() -> PeftModel:
    """Return a model whose first layer has the adapters ``default``, which is active, and ``other``."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))
    config = ButterflyConfig(target_modules=["0"], side="input", block_size=2, scale=True)
    adapted = get_peft_model(base, config)
    adapted.add_adapter("other", ButterflyConfig(target_modules=["0"], side="output", block_size=2))
    for seed, name in enumerate(["default", "other"]):
        randomize_angles(adapted, name, seed)
    return adapted


def outcome(model: Any, x: Tensor, mode: str) -> list[Tensor]:
    """Return the output and, after a backward pass, the gradients of all trained parameters."""
    model.train(mode == FORWARD_AND_BACKWARD)
    if mode == EVALUATION:
        with torch.no_grad():
            return [model(x)]
    y = model(x)
    trained = [values for values in model.parameters() if values.requires_grad]
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), trained, allow_unused=True)] if y.requires_grad else [y]


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


CHANGES: dict[str, Callable[[PeftModel], Any]] = {
    "strength": lambda model: model.base_model.set_strength(0.5),
    "strength zero": lambda model: model.base_model.set_strength(0),
    "other adapter": lambda model: model.set_adapter("other"),
    "both adapters": lambda model: model.base_model.set_adapter(["default", "other"]),
    "new angles": lambda model: randomize_angles(model, seed=5),
    "disabled": lambda model: model.base_model.disable_adapter_layers(),
    "merged": lambda model: model.merge_adapter(),
    "deleted": lambda model: (model.set_adapter("other"), model.delete_adapter("default")),
}


@pytest.mark.parametrize(
    ("change", "mode"),
    [
        *((change, EVALUATION) for change in CHANGES),
        ("strength", FORWARD_AND_BACKWARD),
        ("other adapter", FORWARD_AND_BACKWARD),
    ],
)
def test_a_compiled_model_sees_every_change(change: str, mode: str) -> None:
    adapted = adapted_layers()
    compiled = torch.compile(adapted, backend="aot_eager")
    x = torch.randn(3, 8)
    before = outcome(adapted, x, mode)
    assert_same(outcome(compiled, x, mode), before)
    CHANGES[change](adapted)
    changed = outcome(adapted, x, mode)
    assert change == "merged" or not torch.allclose(changed[0], before[0], atol=1e-3)
    assert_same(outcome(compiled, x, mode), changed)


@both_modes
def test_a_graph_with_dynamic_shapes_serves_all_lengths(mode: str) -> None:
    adapted = adapted_layers()
    compiled = torch.compile(adapted, backend="aot_eager", dynamic=True)
    for length in (3, 17, 5, 64):
        x = torch.randn(2, length, 8)
        assert_same(outcome(compiled, x, mode), outcome(adapted, x, mode))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow("inductor compiles C++ for half a minute")
@both_modes
def test_inductor_computes_the_same(mode: str) -> None:
    adapted = adapted_layers()
    compiled = torch.compile(adapted)
    for length in (3, 17):
        x = torch.randn(2, length, 8)
        assert_same(outcome(compiled, x, mode), outcome(adapted, x, mode))
