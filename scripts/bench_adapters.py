"""What an adapter costs in training: step time, memory and parameters, PEFT's methods and ours side by side.

    uv run python scripts/bench_adapters.py --rounds 7

A model of distilgpt2's shape with random weights, adapters on c_attn and c_proj, batch 4 x 256, forward, backward
and AdamW. Every method takes one step in each round, in an order drawn anew, so that what the machine does beside
is shared by all; the ratio to LoRA is taken within a round. Conv1D layers are turned into nn.Linear, the same
function, since PEFT's orthogonal methods refuse Conv1D. `saved` are the bytes that autograd keeps for the way back
over those of the frozen base; `peak` the most that tensors held at once during a step, the base's weights left out.

``--decode`` measures instead one token through each adapted layer, without gradients, beside the layer alone; for
butterflies also without their rotated weights. ``--four_bit`` lays the adapters over a 4-bit base there.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import peft
import torch
from peft import BOFTConfig, HRAConfig, LoraConfig, OFTConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from slm_adapters import ButterflyConfig, four_bit_config
from slm_train.estimate import LiveTensors

TARGETS = ["c_attn", "c_proj"]
CAUSAL: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": TARGETS}

METHODS: dict[str, Callable[[], Any]] = {
    "frozen": lambda: None,
    "lora r16": lambda: LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, **CAUSAL),
    "lora r16, no dropout": lambda: LoraConfig(r=16, lora_alpha=32, **CAUSAL),
    "oft 32": lambda: OFTConfig(oft_block_size=32, **CAUSAL),
    "butterfly_block 256, auto": lambda: ButterflyConfig(block_size=256, stages=8, side="auto", **CAUSAL),
    "butterfly_block 256, input": lambda: ButterflyConfig(block_size=256, stages=8, side="input", **CAUSAL),
    "butterfly, auto": lambda: ButterflyConfig(side="auto", **CAUSAL),
    "butterfly, input": lambda: ButterflyConfig(side="input", **CAUSAL),
    "butterfly 6 stages, auto": lambda: ButterflyConfig(stages=6, side="auto", **CAUSAL),
    "hra r8": lambda: HRAConfig(r=8, **CAUSAL),
    "boft b4 m2": lambda: BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, **CAUSAL),
}
REFERENCE = "lora r16"


@dataclass
class Contender:
    """A method on its own copy of the model, and what was measured of it."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    trainable: int
    seconds: list[float] = field(default_factory=list)
    saved: int = 0
    peak: int = 0


def plain_gpt2(layers: int) -> GPT2LMHeadModel:
    """distilgpt2's shape; random weights, no dropout."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=layers, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))


def with_linear(model: nn.Module) -> Any:
    """``model`` itself, with nn.Linear in place of Conv1D: the same function."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1D):
                setattr(module, name, as_linear(child))
    return model


def as_linear(layer: Conv1D) -> nn.Linear:
    made = nn.Linear(*layer.weight.shape)
    with torch.no_grad():
        made.weight.copy_(layer.weight.T)
        made.bias.copy_(layer.bias)
    return made


def contender(name: str, base: nn.Module, device: str) -> Contender:
    model: Any = copy.deepcopy(base)
    config = METHODS[name]()
    if config is None:
        model.requires_grad_(False)
        return Contender(name, model.to(device), None, 0)
    model = get_peft_model(model, config).to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    return Contender(name, model, torch.optim.AdamW(trained, lr=1e-4), sum(p.numel() for p in trained))


def step(one: Contender, ids: Tensor) -> None:
    model: Any = one.model
    if one.optimizer is None:  # the same way forward and back, with nothing to train
        hidden = model.transformer.wte(ids).requires_grad_()
        model(inputs_embeds=hidden, labels=ids, use_cache=False).loss.backward()
        return
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    one.optimizer.step()
    one.optimizer.zero_grad()


def timed(one: Contender, ids: Tensor) -> float:
    synchronize(ids)
    start = time.perf_counter()
    step(one, ids)
    synchronize(ids)
    return time.perf_counter() - start


def synchronize(tensor: Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize()


def saved_bytes(one: Contender, ids: Tensor) -> int:
    """Bytes of the distinct storages that autograd keeps, weights left out."""
    own = {p.untyped_storage().data_ptr() for p in (*one.model.parameters(), *one.model.buffers())}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(one, ids)
    return sum(storage.nbytes() for storage in kept.values())


def peak_bytes(one: Contender, ids: Tensor) -> int:
    with LiveTensors() as live:
        live.ignore(one.model)
        step(one, ids)
    return live.highest


def measure(names: Sequence[str], options: argparse.Namespace) -> list[Contender]:
    base = with_linear(plain_gpt2(options.layers))
    ids = torch.randint(0, base.config.vocab_size, (options.batch, options.tokens), device=options.device)
    contenders = [contender(name, base, options.device) for name in names]
    for one in contenders:  # the first step warms up, and makes the optimizer's state
        step(one, ids)
        one.saved, one.peak = saved_bytes(one, ids), peak_bytes(one, ids)
    for _ in range(options.rounds):
        for one in random.sample(contenders, len(contenders)):
            with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
                one.seconds.append(timed(one, ids))
    return contenders


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):6.3f} ({min(values):.3f} to {max(values):.3f})"


def show_training(contenders: list[Contender]) -> None:
    by_name = {one.name: one for one in contenders}
    reference, frozen = by_name[REFERENCE], by_name["frozen"]
    print(f"{'':28}{'trainable':>11}{'step / lora':>26}{'s a step':>10}{'saved MiB':>11}{'peak MiB':>10}")
    for one in contenders:
        ratios = [a / b for a, b in zip(one.seconds, reference.seconds, strict=True)]
        saved = (one.saved - frozen.saved) / 2**20
        print(
            f"{one.name:28}{one.trainable:11,}{spread(ratios):>26}{statistics.median(one.seconds):10.3f}"
            f"{saved:+11.1f}{one.peak / 2**20:10.0f}"
        )


def decode(options: argparse.Namespace) -> dict[str, list[float]]:
    """One token through the adapted layers of all blocks, over the same layers alone, pair by pair."""
    base = four_bit_gpt2(options.layers) if options.four_bit else with_linear(plain_gpt2(options.layers))
    names = options.only or [n for n in METHODS if n.startswith(("butterfly", "lora r16,", "oft"))]
    ratios: dict[str, list[float]] = {}
    with torch.no_grad():
        for name in names:
            model: Any = contender(name, base, options.device).model.eval()
            ratios[name] = decode_ratios(model, options)
            if name.startswith("butterfly") and not options.four_bit:
                model.cache_weights(False)
                ratios[f"{name}, rotation alone"] = decode_ratios(model, options)
    return ratios


def decode_ratios(model: nn.Module, options: argparse.Namespace) -> list[float]:
    """Time of the adapted layers over that of their base layers, once for each pair of walks."""
    adapted: list[Any] = [m for m in model.modules() if hasattr(m, "base_layer")]
    alone = [m.base_layer for m in adapted]
    inputs = [torch.randn(1, 1, m.base_layer.in_features, device=options.device) for m in adapted]
    walk(adapted, inputs)  # makes what is kept
    return [walk(adapted, inputs) / walk(alone, inputs) for _ in range(options.rounds * 10)]


def four_bit_gpt2(layers: int) -> Any:
    """``plain_gpt2`` with its linear layers in 4 bits (which makes them ``Linear4bit``)."""
    with tempfile.TemporaryDirectory() as folder:
        plain_gpt2(layers).save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, quantization_config=four_bit_config(torch.float32))


def walk(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> float:
    """Seconds for one pass over all layers: their weights do not fit the cache together."""
    start = time.perf_counter()
    for _ in range(3):
        for layer, x in zip(layers, inputs, strict=True):
            layer(x)
    synchronize(inputs[0])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--only", nargs="+", choices=METHODS, help="methods to measure; frozen and lora r16 come along")
    parser.add_argument("--decode", action="store_true", help="one token at a time through the adapted layers")
    parser.add_argument("--four_bit", action="store_true", help="with --decode: over a 4-bit base")
    parser.add_argument("--json", help="write every sample to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = {"processor": platform.machine(), "threads": options.threads, "torch": torch.__version__}
    print(f"{machine} peft {peft.__version__}, {options.batch} x {options.tokens} tokens, {options.rounds} rounds")
    found: dict[str, Any] = {"machine": machine, "settings": vars(options)}
    if options.decode:
        found["decode"] = decode(options)
        for name, ratios in found["decode"].items():
            print(f"{name:42} one token, adapted / base: {spread(ratios)}")
    else:
        wanted = options.only or list(METHODS)
        contenders = measure([n for n in METHODS if n in wanted or n in ("frozen", REFERENCE)], options)
        show_training(contenders)
        found["training"] = [{k: v for k, v in vars(c).items() if k not in ("model", "optimizer")} for c in contenders]
    if options.json:
        with open(options.json, "w") as out:
            json.dump(found, out, indent=1)


if __name__ == "__main__":
    main()
