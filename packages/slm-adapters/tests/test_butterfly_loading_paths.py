"""Damaged checkpoints are refused however they are loaded, and the model stays as it was."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, inject_adapter_in_model, set_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import load_file, save_file

import slm_testing.forked as forked
from slm_adapters import AdapterError, ButterflyConfig
from slm_testing.adapters.tiny_adapters import (
    MakeModel,
    assert_same_bits,
    copy_state,
    layers,
    logits,
    random_butterfly,
)

SETTINGS: dict[str, Any] = {"side": "input", "block_size": 16, "stages": 3, "scale": True}
ANGLES = "base_model.model.model.layers.1.mlp.up_proj.butterfly_input"
BASE_WEIGHT = "base_model.model.model.layers.1.mlp.up_proj.base_layer.weight"
MAGNITUDES = "base_model.model.model.layers.0.self_attn.q_proj.butterfly_magnitude"

Tensors = dict[str, torch.Tensor]
Edit = Callable[[dict[str, Any], Tensors], Any]
Load = Callable[[Any, Path], Any]
FAULTS: dict[str, tuple[Edit, str]] = {
    "layer missing": (lambda _, tensors: tensors.pop(ANGLES), r"up_proj.butterfly_input"),
    "magnitudes missing": (lambda _, tensors: tensors.pop(MAGNITUDES), r"q_proj.butterfly_magnitude"),
    "nan": (lambda _, tensors: tensors[ANGLES].view(-1)[3:4].fill_(torch.nan), r"up_proj.*not finite"),
    "infinite magnitude": (lambda _, tensors: tensors[MAGNITUDES][:1].fill_(torch.inf), r"q_proj.*not finite"),
    "shape": (lambda _, tensors: tensors.update({ANGLES: tensors[ANGLES][:, :8].clone()}), r"up_proj"),
    "other keys": (
        lambda _, tensors: tensors.update({ANGLES.replace("butterfly_input", "lora_A.weight"): torch.ones(2, 2)}),
        r"up_proj.lora_A",
    ),
    "weights of the base": (
        lambda _, tensors: tensors.update(
            {ANGLES.replace("butterfly_input", "base_layer.weight"): torch.ones(128, 64)}
        ),
        r"up_proj.base_layer.weight",
    ),
    "later format": (lambda config, _: config.update(format_version=2), r"format version 2"),
}


def config_of(folder: Path) -> Any:
    return ButterflyConfig.from_pretrained(str(folder))


def inject_and_set(
    model: Any, folder: Path, *, low_cpu_mem_usage: bool = False, by_names: bool = False, **options: Any
) -> None:
    tensors = load_peft_weights(str(folder), device="cpu")
    names = {name.removeprefix("base_model.model."): values for name, values in tensors.items()}
    injected = inject_adapter_in_model(
        config_of(folder), model, low_cpu_mem_usage=low_cpu_mem_usage, state_dict=names if by_names else None
    )
    set_peft_model_state_dict(injected, names if by_names else tensors, low_cpu_mem_usage=low_cpu_mem_usage, **options)


BY_NAMES = "inject by the names of tensors"
# Ways to load an adapter over a plain model.
LOAD: dict[str, Load] = {
    "from_pretrained": PeftModel.from_pretrained,
    "from_pretrained, low_cpu_mem_usage": lambda m, f: PeftModel.from_pretrained(m, f, low_cpu_mem_usage=True),
    "from_pretrained, ignore_mismatched_sizes": lambda m, f: PeftModel.from_pretrained(
        m, f, ignore_mismatched_sizes=True, autocast_adapter_dtype=False
    ),
    "from_pretrained, own configuration": lambda m, f: PeftModel.from_pretrained(
        m, f, config=ButterflyConfig(**SETTINGS)
    ),
    "transformers": lambda m, f: m.load_adapter(str(f)),
    "transformers, trainable": lambda m, f: m.load_adapter(str(f), is_trainable=True, low_cpu_mem_usage=True),
    "transformers, ignore_mismatched_sizes": lambda m, f: m.load_adapter(str(f), ignore_mismatched_sizes=True),
    "transformers, tensors": lambda m, f: m.load_adapter(
        peft_config=config_of(f), adapter_state_dict=load_file(f / "adapter_model.safetensors")
    ),
    "inject": inject_and_set,
    "inject, low_cpu_mem_usage": lambda m, f: inject_and_set(m, f, low_cpu_mem_usage=True),
    "inject, ignore_mismatched_sizes": lambda m, f: inject_and_set(m, f, ignore_mismatched_sizes=True),
    BY_NAMES: lambda m, f: inject_and_set(m, f, by_names=True),
}
# PEFT 0.21 looks for the names of such modules as they are in the model, which has no prefix in the other ways.
WITH_MODULES = [
    "from_pretrained",
    "from_pretrained, low_cpu_mem_usage",
    "transformers",
    "inject by the names of tensors",
]
all_paths = pytest.mark.parametrize("load", LOAD.values(), ids=LOAD)


def save(model: Any, folder: Path, edit: Edit | None = None) -> Path:
    model.save_pretrained(folder)
    return damage(folder, folder, edit) if edit else folder


def damage(source: Path, folder: Path, edit: Edit) -> Path:
    config = json.loads((source / "adapter_config.json").read_text())
    tensors = load_file(source / "adapter_model.safetensors")
    edit(config, tensors)
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def damaged(tiny: MakeModel, tmp_path: Path) -> dict[str, Path]:
    """The folder of a checkpoint with each fault."""
    source = save(random_butterfly(tiny("llama"), seed=1, **SETTINGS), tmp_path / "source")
    return {name: damage(source, tmp_path / name, edit) for name, (edit, _) in FAULTS.items()}


def assert_refused(fault: str, load: Callable[[], Any]) -> None:
    """Transformers itself refuses other shapes, with a table in the log."""
    message = r"up_proj|ignore_mismatched_sizes" if fault == "shape" else FAULTS[fault][1]
    with pytest.raises((AdapterError, RuntimeError) if fault == "shape" else AdapterError, match=message):
        load()


@all_paths
def test_every_path_loads_an_undamaged_checkpoint(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path, load: Load
) -> None:
    source = random_butterfly(tiny("llama"), **SETTINGS)
    model = tiny("llama")
    loaded = load(model, save(source, tmp_path))
    assert torch.equal(logits(loaded if isinstance(loaded, PeftModel) else model, input_ids), logits(source, input_ids))


@pytest.mark.parametrize("load", [load for name, load in LOAD.items() if name in WITH_MODULES], ids=WITH_MODULES)
def test_every_path_loads_embeddings_and_modules_that_were_saved_with_the_adapter(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path, load: Load
) -> None:
    source = random_butterfly(tiny("llama"), **SETTINGS, modules_to_save=["lm_head"])
    with torch.no_grad():
        source.base_model.model.model.embed_tokens.weight.mul_(1.5)
        source.base_model.model.lm_head.modules_to_save["default"].weight.mul_(0.5)
    source.save_pretrained(tmp_path, save_embedding_layers=True)
    model = tiny("llama")
    loaded = load(model, tmp_path)
    assert torch.equal(logits(loaded if isinstance(loaded, PeftModel) else model, input_ids), logits(source, input_ids))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # the adapter that was injected before
@all_paths
def test_every_path_refuses_damaged_checkpoints_and_the_model_computes_as_before(
    tiny: MakeModel, input_ids: torch.Tensor, damaged: dict[str, Path], load: Load
) -> None:
    model = tiny("llama")
    expected = logits(model, input_ids)
    for fault, folder in damaged.items():
        assert_refused(fault, partial(load, model, folder))
    if any(values.is_meta for values in model.parameters()):  # injected without memory, to be loaded
        with pytest.raises(RuntimeError, match="meta"):
            logits(model, input_ids)
    else:
        assert torch.equal(logits(model, input_ids), expected)


@pytest.mark.parametrize("name", ["from_pretrained", "transformers"])
def test_after_a_refusal_the_model_has_no_trace_of_the_adapter(
    tiny: MakeModel, tmp_path: Path, damaged: dict[str, Path], name: str
) -> None:
    model: Any = tiny("llama").train()
    before = copy_state(model)
    for fault, folder in damaged.items():
        assert_refused(fault, partial(LOAD[name], model, folder))
        assert_same_bits(copy_state(model), before)
        assert not hasattr(model, "peft_config")
        assert all(values.requires_grad for values in model.parameters())
        assert model.training
    LOAD[name](model, tmp_path / "source")
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize("kind", ["peft", "transformers"])
def test_a_refused_second_adapter_leaves_the_first_as_it_was(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path, damaged: dict[str, Path], kind: str
) -> None:
    first = random_butterfly(tiny("llama"), side="output")
    model: Any = first if kind == "peft" else tiny("llama")
    if kind == "transformers":
        model.load_adapter(str(save(first, tmp_path / "good")))
    expected, state = logits(first, input_ids), copy_state(model)
    for fault, folder in damaged.items():
        assert_refused(fault, partial(model.load_adapter, str(folder), "second"))
        assert list(model.peft_config) == ["default"]
        assert {tuple(layer.active_adapters) for layer in layers(model).values()} == {("default",)}
        assert_same_bits(copy_state(model), state)
    assert torch.equal(logits(model, input_ids), expected)


def test_values_that_are_refused_for_an_existing_adapter_leave_its_own(
    tiny: MakeModel, input_ids: torch.Tensor, damaged: dict[str, Path]
) -> None:
    adapted = random_butterfly(tiny("llama"), **SETTINGS)
    expected = logits(adapted, input_ids)
    for fault, folder in damaged.items():
        assert_refused(fault, partial(adapted.load_adapter, str(folder), "default"))
    assert torch.equal(logits(adapted, input_ids), expected)


PROGRAM = """
import sys
{imports}
model = transformers.LlamaForCausalLM.from_pretrained(sys.argv[1])
assert "peft" not in sys.modules
try:
    model.load_adapter(sys.argv[2])
except slm_adapters.AdapterError as error:
    print(error)
"""


# Slow: six seconds of CPU each, for importing transformers and PEFT.
@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("import slm_adapters, transformers", id="before transformers"),
        pytest.param(
            "import transformers\ntransformers.LlamaForCausalLM\nimport slm_adapters",
            id="after transformers",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_first_adapter_is_checked_when_transformers_imports_peft(
    tiny: MakeModel, tmp_path: Path, damaged: dict[str, Path], imports: str
) -> None:
    tiny("llama").save_pretrained(tmp_path / "base")
    words = [tmp_path / "base", damaged["nan"]]
    result = forked.run_program(PROGRAM.format(imports=imports), words, tmp_path, imported="torch")
    assert "the checkpoint has values that are not finite" in result.stdout, result.stderr
