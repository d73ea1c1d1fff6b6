"""Attributes of the base are reached through the adapted model, as with PEFT's own methods."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraModel
from torch import Tensor, nn

from slm_adapters import ButterflyConfig, ButterflyModel
from slm_testing.adapters.tiny_adapters import MakeModel, all_models, butterfly, layers

OWN = {"butterfly_layers", "set_strength", "cache_weights"}  # documented, and of no model in transformers 5.19


class Blocks(nn.Module):
    """A base with attributes whose names a tuner might want for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.rotations, self.angles, self.cache = [1], torch.ones(1), {"a": 1}
        self.scale = self.strength = self.composition = self.magnitudes = 2.0

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("name", ["layers", "rotations", "angles", "cache", "scale", "strength", "composition"])
def test_an_attribute_of_the_base_is_not_hidden(name: str) -> None:
    base = Blocks()
    adapted = get_peft_model(base, ButterflyConfig())
    assert getattr(adapted, name) is getattr(base, name)
    assert getattr(adapted.base_model, name) is getattr(base, name)


def test_the_tuner_has_the_names_of_loras_tuner_and_three_more() -> None:
    adapted = get_peft_model(Blocks(), ButterflyConfig()).base_model
    lora = get_peft_model(Blocks(), LoraConfig(target_modules=["0", "1"])).base_model
    names = {*dir(ButterflyModel), *vars(adapted), *adapted._modules, *adapted._parameters, *adapted._buffers}
    others = {*dir(LoraModel), *vars(lora), *lora._modules}
    assert {name for name in names - others if not name.startswith("_")} == OWN


@all_models
def test_no_model_has_an_attribute_of_these_three_names(tiny: MakeModel, name: str) -> None:
    base = tiny(name)
    assert OWN.isdisjoint({*dir(base), *dir(base.base_model)})
    adapted = butterfly(base)
    assert dict(adapted.base_model.butterfly_layers()) == layers(base)
