"""A saved adapter is loaded bit for bit, under any name and by every function, and its file names no adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import nn

from slm_adapters import ButterflyConfig
from slm_testing.adapters.peft_cases import CASES, Case, adapter_parameters, each_case, each_case_and_control
from slm_testing.adapters.tiny_adapters import assert_same_bits, copy_state

WEIGHTS = "adapter_model.safetensors"


def values_of(model: nn.Module, adapter: str) -> dict[str, torch.Tensor]:
    """Return the values of ``adapter`` by their names, without the name of the adapter."""
    return {
        ".".join(part for part in name.split(".") if part != adapter): values.detach()
        for name, values in adapter_parameters(model, adapter).items()
    }


@each_case_and_control
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_saved_adapter_is_loaded_bit_for_bit(case: Case, tmp_path: Path, low_cpu_mem_usage: bool) -> None:
    adapted = case.adapted()
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert_same_bits(copy_state(loaded), copy_state(adapted))
    assert torch.equal(case.outputs(loaded), case.outputs(adapted))
    assert not loaded.training
    assert not any(values.requires_grad for values in loaded.parameters())


@each_case_and_control
def test_an_adapter_is_loaded_beside_others_under_other_names(case: Case, tmp_path: Path) -> None:
    source = case.adapted()
    expected = case.outputs(source)
    source.save_pretrained(tmp_path)
    adapted = case.start(name="first")
    for name, low_cpu_mem_usage in {"second": False, "third": True}.items():
        result = adapted.load_adapter(str(tmp_path), name, low_cpu_mem_usage=low_cpu_mem_usage)
        assert result.unexpected_keys == []
    assert torch.equal(case.outputs(adapted), case.outputs(case.base()))
    for name in ("second", "third"):
        adapted.set_adapter(name)
        assert torch.equal(case.outputs(adapted), expected)
        assert_same_bits(values_of(adapted, name), values_of(source, "default"))


@each_case_and_control
def test_selected_adapters_are_saved_in_folders_of_their_names(case: Case, tmp_path: Path) -> None:
    adapted = case.adapted()
    for seed, name in enumerate(("second", "default2", "efaul"), start=1):  # names that contain each other
        case.add(adapted, name, seed)
    adapted.save_pretrained(tmp_path, selected_adapters=["default", "efaul"])
    assert sorted(path.name for path in tmp_path.glob("*") if path.is_dir()) == ["efaul"]
    assert len(load_file(tmp_path / WEIGHTS)) == len(load_file(tmp_path / "efaul" / WEIGHTS))
    loaded = PeftModel.from_pretrained(case.base(), str(tmp_path), subfolder="efaul", adapter_name="efaul")
    assert_same_bits(values_of(loaded, "efaul"), values_of(adapted, "efaul"))
    adapted.set_adapter("efaul")
    assert torch.equal(case.outputs(loaded), case.outputs(adapted))


@each_case_and_control
def test_the_names_in_a_file_do_not_depend_on_the_name_of_the_adapter(case: Case, tmp_path: Path) -> None:
    case.adapted().save_pretrained(tmp_path / "one")
    case.adapted(name="other-name").save_pretrained(tmp_path / "two")
    saved, other = load_file(tmp_path / "one" / WEIGHTS), load_file(tmp_path / "two" / "other-name" / WEIGHTS)
    assert_same_bits(saved, other)
    assert not any("default" in name or "other-name" in name for name in saved)
    values = sum(tensor.numel() for tensor in saved.values())
    assert values == case.trained


@each_case
def test_saving_what_was_loaded_gives_the_same_files(case: Case, tmp_path: Path) -> None:
    case.adapted().save_pretrained(tmp_path / "one")
    loaded = PeftModel.from_pretrained(case.base(), tmp_path / "one", is_trainable=True)
    loaded.save_pretrained(tmp_path / "two")
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()
    configs = [PeftConfig.from_pretrained(tmp_path / name) for name in ("one", "two")]
    assert configs[0] == configs[1]


@each_case
def test_saving_leaves_the_model_as_it_was(case: Case, tmp_path: Path) -> None:
    adapted = case.start()
    before = copy_state(adapted)
    trained = [name for name, values in adapted.named_parameters() if values.requires_grad]
    adapted.save_pretrained(tmp_path)
    assert_same_bits(copy_state(adapted), before)
    assert [name for name, values in adapted.named_parameters() if values.requires_grad] == trained
    assert not adapted.peft_config["default"].inference_mode


@each_case_and_control
def test_a_state_is_moved_into_an_injected_adapter(case: Case) -> None:
    source = case.adapted()
    state = {
        name.removeprefix("base_model.model."): values for name, values in get_peft_model_state_dict(source).items()
    }
    injected = inject_adapter_in_model(case.config(), case.base()).eval()
    assert type(injected) is type(case.base())
    result = set_peft_model_state_dict(injected, state)
    assert result.unexpected_keys == []
    assert torch.equal(case.outputs(injected), case.outputs(source))
    assert_same_bits(get_peft_model_state_dict(injected), state)


@each_case
def test_after_deleting_an_adapter_the_others_are_saved_and_loaded(case: Case, tmp_path: Path) -> None:
    adapted = case.adapted()
    case.add(adapted, "second")
    adapted.set_adapter("second")
    expected = case.outputs(adapted)
    adapted.delete_adapter("default")
    adapted.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*/" + WEIGHTS)] == [WEIGHTS]
    assert not (tmp_path / WEIGHTS).exists()
    loaded = PeftModel.from_pretrained(case.base(), tmp_path / "second", adapter_name="second")
    assert torch.equal(case.outputs(loaded), expected)


names = st.lists(st.sampled_from(["q_proj", "layers.0", "fc1", "score"]), min_size=1, unique=True)
configurations = st.fixed_dictionaries(
    {},
    optional={
        "target_modules": names | st.just(r".*\.(q|v)_proj"),
        "exclude_modules": names,
        "modules_to_save": names,
        "layers_to_transform": st.integers(0, 3) | st.lists(st.integers(0, 3), min_size=1),
        "trainable_token_indices": st.lists(st.integers(0, 9), min_size=1),
        "block_size": st.none() | st.integers(2, 64),
        "stages": st.none() | st.integers(1, 64),
        "side": st.sampled_from(["input", "output", "both", "auto"]),
        "scale": st.booleans(),
        "strength": st.floats(-2, 2),
        "angle_dropout": st.floats(0, 0.9),
        "init_weights": st.booleans(),
        "inference_mode": st.booleans(),
    },
)


@given(configurations)
def test_a_saved_configuration_is_loaded_with_every_setting(settings: dict[str, Any]) -> None:
    config = ButterflyConfig(**settings)
    loaded = PeftConfig.from_peft_type(**config.to_dict())
    assert loaded == config
    assert {name: getattr(loaded, name) for name in settings if "modules" not in name} == {
        name: value for name, value in settings.items() if "modules" not in name
    }


def test_a_configuration_given_on_loading_is_the_one_used(tmp_path: Path) -> None:
    case = CASES["stages-strength"]
    adapted = case.adapted()
    adapted.save_pretrained(tmp_path)
    config = case.config(angle_dropout=0.5)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path, config=config)
    assert loaded.peft_config["default"] is config
    assert torch.equal(case.outputs(loaded), case.outputs(adapted))
    torch.manual_seed(0)
    assert not torch.equal(case.outputs(loaded.train()), case.outputs(adapted))
