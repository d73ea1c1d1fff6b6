"""Models with configurations of an adapter, for laws that hold for each of them.

The LoRA cases are controls: where a law about PEFT's own bookkeeping fails for them too, PEFT has changed, not the
butterfly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from slm_adapters import ButterflyConfig
from slm_testing.adapters.peft_models import CAUSAL, build, model_inputs, outputs


@dataclass(frozen=True)
class Case:
    """A model and the settings of an adapter for it.

    ``trained``: how many values are trained, counted by hand; ``copied``: how many of these are not the method's own,
    such as those of ``modules_to_save``.
    """

    model: str
    trained: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    copied: int = 0
    method: type[PeftConfig] = ButterflyConfig

    def base(self, dtype: torch.dtype = torch.float32) -> Any:
        """Return the model without an adapter, always with the same weights."""
        return build(self.model).to(dtype)

    def config(self, **changes: Any) -> PeftConfig:
        """Return a configuration with the settings of the case."""
        task = {"task_type": "CAUSAL_LM"} if self.model in CAUSAL else {}
        return self.method(**task, **{**self.settings, **changes})

    def start(self, dtype: torch.dtype = torch.float32, name: str = "default", **changes: Any) -> PeftModel:
        """Return the model with a new adapter called ``name``, in eval mode."""
        torch.manual_seed(0)  # for LoRA's first matrix
        return get_peft_model(self.base(dtype), self.config(**changes), adapter_name=name).eval()

    def adapted(self, dtype: torch.dtype = torch.float32, name: str = "default", **changes: Any) -> PeftModel:
        """Return the model with an adapter that changes its output, in eval mode."""
        adapted = self.start(dtype, name, **changes)
        perturb(adapted, name)
        return adapted

    def add(self, adapted: PeftModel, name: str, seed: int = 1, **changes: Any) -> None:
        """Add another adapter, with other values than the first."""
        torch.manual_seed(0)
        adapted.add_adapter(name, self.config(**changes))
        perturb(adapted, name, seed)

    @torch.no_grad()
    def outputs(self, model: nn.Module, **options: Any) -> Tensor:
        """Return the output of ``model`` for an input of three rows, without gradients."""
        return outputs(model, model_inputs(self.model), **options)


def perturb(model: nn.Module, adapter: str = "default", seed: int = 0) -> None:
    """Change every trained value of ``adapter``, as training does: angles, magnitudes, matrices, copies of modules."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in adapter_parameters(model, adapter).values():
            values.add_(torch.randn(values.shape, generator=generator).to(values.dtype), alpha=0.2)


def adapter_parameters(model: nn.Module, adapter: str = "default") -> dict[str, nn.Parameter]:
    """Return all parameters of ``adapter`` by their names in the model."""
    return {name: values for name, values in model.named_parameters() if adapter in name.split(".")}


# Angles of full rotations: width / 2 for each factor of two, 3 for each triple of a factor of three.
A6, A8, A12, A16, A24, A32 = 3 + 6, 3 * 4, 6 + 6 + 12, 4 * 8, 12 + 12 + 12 + 24, 5 * 16
BOTH = ["0", "1"]
Q_AND_DOWN = ["q_proj", "down_proj"]

CASES = {
    # Layers of 12 -> 24 and 24 -> 6.
    "defaults": Case("perceptron", A12 + A6, {"target_modules": BOTH}),
    "blocks": Case("perceptron", 6 + 12, {"target_modules": BOTH, "side": "input", "block_size": 2}),
    "scale": Case(
        "perceptron", 24 + 24 + 6 + 6, {"target_modules": BOTH, "side": "output", "block_size": 3, "scale": True}
    ),
    # A block of 6 has stages of pairs and triples in turn, 3 and 6 angles each.
    "stages-strength": Case(
        "perceptron",
        (3 + 6 + 3) * (2 + 4 + 4 + 1),
        {"target_modules": BOTH, "side": "both", "block_size": 6, "stages": 3, "strength": 0.5},
    ),
    "norm-saved": Case("perceptron", A12 + 48, {"target_modules": ["layers.0"], "modules_to_save": ["norm"]}, 48),
    "regex-dropout": Case("perceptron", A24, {"target_modules": r".*\.1", "side": "input", "angle_dropout": 0.25}),
    "excluded": Case("perceptron", A6, {"target_modules": BOTH, "exclude_modules": ["layers.0"], "side": "output"}),
    # Conv1D 16 -> 12 and a score of 12 -> 1, of which a side of width 1 cannot be rotated.
    "score-auto": Case("score", A12 + A12, {"target_modules": ["projection", "score"]}),
    "score": Case("score", A16 + A12, {"target_modules": ["projection", "score"], "side": "input"}),
    "score-saved": Case("score", A12 + 13, {"target_modules": ["projection"], "modules_to_save": ["score"]}, 13),
    "score-tokens": Case(
        "score",
        A12 + 12 + 3 * 16,
        {"target_modules": ["projection"], "trainable_token_indices": {"embedding": [2, 5, 7]}, "scale": True},
        3 * 16,
    ),
    # 12 -> 24, 24 -> 24 and 24 -> 6, of which the first two; a block of 6 has 9 angles.
    "sequential": Case(
        "sequential", 9 * (2 + 4 + 4 + 4), {"target_modules": ["0", "2"], "side": "both", "block_size": 6}
    ),
    # Two blocks of 16 -> 48, 16 -> 16, 16 -> 64 and 64 -> 16; a block of 8 has 12 angles.
    "gpt2": Case("gpt2", 2 * 4 * A16),
    "gpt2-both": Case(
        "gpt2",
        2 * (12 * (2 + 6 + 2 + 2 + 2 + 8 + 8 + 2) + 48 + 16 + 64 + 16),
        {"side": "both", "scale": True, "block_size": 8},
    ),
    "gpt2-one-block": Case("gpt2", A16, {"target_modules": ["c_attn"], "layers_to_transform": [1]}),
    # Two blocks of 16 -> 16 (q, o), 16 -> 8 (k, v), 16 -> 32 (gate, up) and 32 -> 16 (down); a head of 16 -> 40.
    "llama": Case("llama", 2 * (5 * A16 + 2 * A8)),
    "llama-head-saved": Case(
        "llama",
        2 * (A16 + A32) + 16 * 40,
        {"target_modules": Q_AND_DOWN, "side": "input", "modules_to_save": ["lm_head"]},
        16 * 40,
    ),
    # Two blocks of four times 16 -> 16, 16 -> 32 and 32 -> 16, with biases; the head is tied to the embedding.
    "opt": Case("opt", 2 * (6 * A16 + 4 * 16 + 32 + 16), {"scale": True}),
    "opt-tokens": Case("opt", 2 * A16 + 2 * 16, {"target_modules": ["fc1"], "trainable_token_indices": [3, 4]}, 2 * 16),
}
CONTROLS = {
    "lora-perceptron": Case(
        "perceptron", 2 * (12 + 24) + 2 * (24 + 6), {"target_modules": BOTH, "r": 2}, method=LoraConfig
    ),
    "lora-saved": Case(
        "llama",
        2 * 2 * (16 + 16) + 16 * 40,
        {"target_modules": ["q_proj"], "r": 2, "modules_to_save": ["lm_head"]},
        16 * 40,
        LoraConfig,
    ),
    "lora-tokens": Case(
        "opt",
        2 * 2 * (16 + 32) + 2 * 16,
        {"target_modules": ["fc1"], "r": 2, "trainable_token_indices": [3, 4]},
        2 * 16,
        LoraConfig,
    ),
}


def parametrized(cases: Mapping[str, Case]) -> pytest.MarkDecorator:
    """Run a test for each of ``cases``."""
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


each_case = parametrized(CASES)
each_case_and_control = parametrized(CASES | CONTROLS)
# Without trained copies of modules or rows: PEFT cannot merge those of two adapters.
each_case_without_copies = parametrized(
    {
        name: case
        for name, case in CASES.items()
        if not case.settings.keys() & {"modules_to_save", "trainable_token_indices"}
    }
)
each_causal_case = parametrized({name: case for name, case in (CASES | CONTROLS).items() if case.model in CAUSAL})
