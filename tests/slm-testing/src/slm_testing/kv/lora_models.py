"""A tiny model with two LoRA adapters."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from slm_testing.kv.tiny_models import generated, make


def with_adapters(name: str = "llama", **settings: object) -> PeftModel:
    """Two LoRA adapters that do something, ``red`` active."""
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], **settings)
    model = get_peft_model(make(name), config, adapter_name="red")
    model.add_adapter("blue", LoraConfig(r=2, target_modules=["v_proj", "up_proj"]))
    torch.manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.5)
    return model.eval()


def texts_alone(model: PeftModel, asked: list[tuple[list[int], str | None]], new: int) -> list[list[int]]:
    found = []
    for prompt, adapter in asked:
        model.set_adapter(adapter or "red")
        found.append(generated(model, prompt, new))
    model.set_adapter("red")
    return found
