"""A tiny model with two LoRA adapters."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from slm_testing.kv.tiny_models import greedy_tokens, make_model


def make_lora_model(name: str = "llama", **settings: object) -> PeftModel:
    """Return a tiny model with two LoRA adapters that change its output: ``red``, which is active, and ``blue``."""
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], **settings)
    model = get_peft_model(make_model(name), config, adapter_name="red")
    model.add_adapter("blue", LoraConfig(r=2, target_modules=["v_proj", "up_proj"]))
    torch.manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.5)  # peft initialises it with zeros
    return model.eval()


def greedy_tokens_alone(model: PeftModel, requests: list[tuple[list[int], str | None]], new: int) -> list[list[int]]:
    """Return the tokens that ``generate`` adds to each prompt with its adapter, one request after the other."""
    answers = []
    for prompt, adapter in requests:
        model.set_adapter(adapter or "red")
        answers.append(greedy_tokens(model, prompt, new))
    model.set_adapter("red")
    return answers
