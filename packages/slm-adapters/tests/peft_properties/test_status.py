"""What PEFT reports about an adapted model: parameters, layers, their adapters and whether they are merged."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from slm_adapters import ButterflyConfig
from slm_testing.adapters.peft_cases import CASES, Case, adapter_parameters, each_case, each_case_and_control
from slm_testing.adapters.tiny_adapters import layers


@each_case_and_control
def test_the_number_of_trained_parameters_is_that_counted_by_hand(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    adapted = case.start()
    total = sum(values.numel() for values in case.base().parameters())
    assert adapted.get_nb_trainable_parameters() == (case.trained, total + case.trained)
    adapted.print_trainable_parameters()
    assert capsys.readouterr().out.startswith(f"trainable params: {case.trained:,} || all params: ")
    adapted.add_adapter("second", case.config())
    assert adapted.get_nb_trainable_parameters() == (case.trained, total + 2 * case.trained)


@each_case_and_control
def test_the_status_of_a_model_follows_what_is_done(case: Case) -> None:
    adapted = case.adapted()
    status = adapted.get_model_status()
    assert (status.enabled, status.active_adapters, status.merged_adapters) == (True, ["default"], [])
    assert status.available_adapters == ["default"]
    assert status.requires_grad == {"default": True}
    assert status.trainable_params == case.trained
    adapted.add_adapter("second", case.config())
    adapted.set_adapter("second")
    status = adapted.get_model_status()
    assert (status.active_adapters, status.available_adapters) == (["second"], ["default", "second"])
    assert status.requires_grad == {"default": False, "second": True}
    adapted.merge_adapter(["second"])
    merged = adapted.get_model_status().merged_adapters  # PEFT has no merging of saved modules
    assert merged == ("irregular" if "modules_to_save" in case.settings else ["second"])
    adapted.unmerge_adapter()
    with adapted.disable_adapter():
        assert adapted.get_model_status().enabled is False
    assert adapted.get_model_status().enabled is True


@each_case
def test_the_status_of_layers_names_each_adapted_layer(case: Case) -> None:
    adapted = case.start()
    statuses = {status.name: status for status in adapted.get_layer_status()}
    for name in layers(adapted):
        status = statuses[name.removeprefix("base_model.")]
        assert status.module_type == "butterfly.ButterflyLayer"
        assert (status.enabled, status.active_adapters, status.merged_adapters) == (True, ["default"], [])
        assert status.requires_grad == {"default": True}
        assert status.devices == {"default": ["cpu"]}


@each_case_and_control
def test_parameters_are_named_after_their_layer_and_adapter(case: Case) -> None:
    one, other = case.start(), case.start(name="other")
    names = {name.replace(".default", ".*") for name in adapter_parameters(one)}
    assert names == {name.replace(".other", ".*") for name in adapter_parameters(other, "other")}
    assert all(name.endswith((".*", ".*.weight", ".*.bias")) for name in names)


@each_case
def test_layers_report_the_widths_of_the_base(case: Case) -> None:
    base: dict[str, Any] = {f"base_model.model.{name}": module for name, module in case.base().named_modules()}
    for name, layer in layers(case.start()).items():
        shape = tuple(base[name].weight.shape)
        assert (layer.in_features, layer.out_features) == (shape if isinstance(base[name], Conv1D) else shape[::-1])


@each_case_and_control
def test_attributes_of_the_base_are_reached_through_the_adapted_model(case: Case) -> None:
    adapted = case.start()
    base = adapted.get_base_model()
    assert type(base) is type(case.base())
    for name, module in base.named_children():
        if name != "model" and not name.isdigit():  # PEFT's own attribute
            assert getattr(adapted, name) is module


@pytest.mark.parametrize("targets", [["missing"], "missing", ["0", "missing"], r".*\.7"], ids=str)
def test_targets_that_match_nothing_are_refused_and_the_model_stays_plain(targets: list[str] | str) -> None:
    case = CASES["defaults"]
    base = case.base()
    with pytest.raises(ValueError, match=r"missing|7"):
        PeftModel(base, ButterflyConfig(target_modules=targets))
    assert not layers(base)
    assert torch.equal(case.outputs(base), case.outputs(case.base()))


@pytest.mark.parametrize("targets", ["all-linear", None])
def test_without_targets_every_linear_layer_is_adapted(targets: str | None) -> None:
    for model in (CASES["defaults"].base(), CASES["sequential"].base()):
        expected = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        adapted = PeftModel(model, ButterflyConfig(target_modules=targets))
        assert {name.removeprefix("base_model.model.") for name in layers(adapted)} == expected
