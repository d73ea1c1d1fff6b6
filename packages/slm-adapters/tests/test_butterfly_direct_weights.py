"""Models that compute with a layer's weight and do not call the layer: an adapter on it takes effect or is refused."""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from slm_adapters import AdapterError, ButterflyConfig
from slm_testing.adapters.tiny_adapters import assert_differ, layers, randomize_angles


class Attention(nn.Module):
    """Attention of torch, whose output projection is never called, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.attention(x, x, x)[0])
        return y


class DirectUse(nn.Module):
    """Computes with the weight of one layer; calls another, after a look at its dtype, as T5 does."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(16, 16)
        self.called = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.called.weight, Tensor) and self.called.weight.dtype != torch.int8:
            x = x.to(self.called.weight.dtype).to(self.called.weight.device)
        y: Tensor = self.called(F.linear(x, weight=self.used.weight, bias=self.used.bias))
        return y


def adapt(model: nn.Module, *targets: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    adapted = get_peft_model(model, ButterflyConfig(target_modules=list(targets), side="both", **settings)).eval()
    randomize_angles(adapted)
    return adapted


X = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))


def test_the_output_projection_of_torchs_attention_is_refused() -> None:
    model = Attention()
    with pytest.raises(AdapterError, match=r"attention.out_proj cannot take an adapter: nn.MultiheadAtt"):
        adapt(model, "layer", "out_proj")
    assert not layers(model)


def test_the_default_targets_leave_out_the_output_projection_of_torchs_attention() -> None:
    adapted = get_peft_model(Attention(), ButterflyConfig())
    assert set(layers(adapted.base_model.model)) == {"layer"}


@pytest.mark.parametrize("training", [False, True])
def test_a_weight_that_is_used_directly_is_refused_at_the_first_forward_pass(training: bool) -> None:
    adapted = adapt(DirectUse(), "used", "called").train(training)
    with pytest.raises(AdapterError, match=r"computes with the weight of used and does not call .* in exclude_modules"):
        adapted(X)


def test_a_look_at_the_dtype_of_a_weight_is_allowed() -> None:
    adapted = adapt(DirectUse(), "called")
    y = adapted(X)
    with adapted.disable_adapter():
        assert_differ(y, adapted(X))
    layer = adapted.base_model.model.called
    assert torch.equal(layer.weight.detach(), layer.get_base_layer().weight)
    with pytest.raises(AdapterError, match=r"the weight of called"):
        layer.weight.T.sum()


@pytest.mark.parametrize("state", ["disabled", "merged", "strength 0"])
def test_without_an_effective_adapter_the_weight_may_be_used(state: str) -> None:
    adapted = adapt(DirectUse(), "used")
    if state == "disabled":
        adapted.base_model.disable_adapter_layers()
    elif state == "merged":
        adapted.merge_adapter()
    else:
        adapted.base_model.set_strength(0)
    model = adapted.base_model.model
    assert torch.equal(adapted(X), model.called(model.used.get_base_layer()(X)))


def test_torchs_encoder_layer_computes_the_same_in_training_and_in_inference() -> None:
    encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    adapted = adapt(encoder, "linear1", "linear2")
    with torch.no_grad():
        y = adapted(X)  # where torch has a fast path that computes with the weights
        trained = adapted.train()(X)
        with adapted.disable_adapter():
            assert_differ(y, adapted(X))
    torch.testing.assert_close(y, trained)


def test_a_module_called_like_a_parameter_of_an_adapter_is_refused() -> None:
    model = nn.ModuleDict({"butterfly_block": nn.Linear(16, 16)})
    with pytest.raises(AdapterError, match=r"butterfly_block .* rename the module"):
        adapt(model, "butterfly_block")
