"""Several adapters on one model: each acts as if it were alone, whatever is added, switched or deleted beside it."""

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel

from slm_adapters import AdapterError
from slm_testing.adapters.peft_cases import (
    CASES,
    CONTROLS,
    Case,
    adapter_parameters,
    each_case,
    each_case_and_control,
    parametrized,
    perturb,
)
from slm_testing.adapters.peft_models import model_inputs, outputs
from slm_testing.adapters.tiny_adapters import assert_same_bits, copy_state


def two_adapters(case: Case) -> tuple[PeftModel, dict[str, torch.Tensor]]:
    """Return a model with the adapters ``default`` and ``second``, and the output with each of them alone."""
    alone = case.start()
    perturb(alone, seed=1)
    expected = {"default": case.outputs(case.adapted()), "second": case.outputs(alone)}
    assert not torch.allclose(expected["default"], expected["second"], atol=1e-3)
    adapted = case.adapted()
    case.add(adapted, "second")
    return adapted, expected


@each_case_and_control
def test_each_adapter_acts_as_if_alone(case: Case) -> None:
    adapted, expected = two_adapters(case)
    assert torch.equal(case.outputs(adapted), expected["default"])
    for name in ("second", "default", "second"):
        adapted.set_adapter(name)
        assert adapted.active_adapters == [name]
        assert torch.equal(case.outputs(adapted), expected[name])


@each_case_and_control
def test_adding_an_adapter_changes_nothing_that_exists(case: Case) -> None:
    adapted = case.adapted()
    before, expected = copy_state(adapted), case.outputs(adapted)
    trained = {name for name, values in adapted.named_parameters() if values.requires_grad}
    case.add(adapted, "second")
    after = copy_state(adapted)
    assert_same_bits({name: after[name] for name in before}, before)
    assert all("second" in name.split(".") for name in after.keys() - before.keys())
    assert {name for name, values in adapted.named_parameters() if values.requires_grad} == trained
    assert torch.equal(case.outputs(adapted), expected)


@each_case_and_control
@pytest.mark.parametrize("active", ["default", "second"])
def test_deleting_an_adapter_leaves_the_other(case: Case, active: str) -> None:
    adapted, expected = two_adapters(case)
    adapted.set_adapter(active)
    adapted.delete_adapter("second")
    assert adapter_parameters(adapted, "second") == {}
    assert list(adapted.peft_config) == ["default"]
    assert adapted.active_adapters == ["default"]
    assert torch.equal(case.outputs(adapted), expected["default"])
    assert_same_bits(copy_state(adapted), copy_state(case.adapted()))


def test_after_deleting_the_active_adapter_all_layers_use_the_same() -> None:
    case = CASES["defaults"]
    adapted = case.adapted(target_modules=["layers.1"])
    case.add(adapted, "second", target_modules=["layers.0"])
    case.add(adapted, "third", target_modules=["layers.0", "layers.1"])
    adapted.set_adapter("third")
    adapted.delete_adapter("third")
    assert adapted.active_adapters == ["default"]
    assert torch.equal(case.outputs(adapted), case.outputs(case.adapted(target_modules=["layers.1"])))
    adapted.base_model.set_adapter(["second", "default"])
    adapted.delete_adapter("second")
    assert adapted.base_model.active_adapters == ["default"]
    assert torch.equal(case.outputs(adapted), case.outputs(case.adapted(target_modules=["layers.1"])))


@each_case_and_control
def test_after_the_last_adapter_is_deleted_the_base_is_left(case: Case) -> None:
    adapted = case.adapted()
    adapted.delete_adapter("default")
    assert adapter_parameters(adapted) == {}
    # PeftModel's own forward needs an active adapter.
    assert torch.equal(case.outputs(adapted.base_model), case.outputs(case.base()))


@each_case_and_control
def test_a_name_that_does_not_exist_is_refused(case: Case) -> None:
    adapted = case.adapted()
    expected = case.outputs(adapted)
    with pytest.raises(ValueError, match="unknown"):
        adapted.set_adapter("unknown")
    with pytest.raises(ValueError, match="unknown"):
        adapted.delete_adapter("unknown")
    assert torch.equal(case.outputs(adapted), expected)
    assert adapted.active_adapters == ["default"]


@pytest.mark.parametrize(
    "operation",
    [
        lambda adapted: adapted.merge_adapter(["missing"]),
        lambda adapted: adapted.merge_adapter("missing"),
        lambda adapted: adapted.merge_and_unload(adapter_names=["default", "missing"]),
        lambda adapted: adapted.base_model.set_adapter(["default", "missing"]),
        lambda adapted: adapted.set_requires_grad("missing"),
    ],
    ids=["merge", "merge-one", "merge-and-unload", "activate-several", "require-gradients"],
)
def test_operations_on_an_adapter_that_does_not_exist_are_refused(operation: Callable[[PeftModel], object]) -> None:
    case = CASES["stages-strength"]
    adapted = case.adapted()
    before = copy_state(adapted)
    with pytest.raises(AdapterError, match=r"there is no adapter 'missing'; there are default$"):
        operation(adapted)
    assert_same_bits(copy_state(adapted), before)
    assert adapted.active_adapters == ["default"]


def test_one_adapter_may_be_named_without_a_list() -> None:
    case = CASES["stages-strength"]
    adapted, other = case.adapted(), case.adapted()
    adapted.merge_adapter("default")
    other.merge_adapter(["default"])
    assert adapted.get_model_status().merged_adapters == ["default"]
    assert_same_bits(copy_state(adapted), copy_state(other))


@each_case_and_control
def test_a_name_that_exists_is_refused_and_nothing_changes(case: Case) -> None:
    adapted = case.adapted()
    before, config = copy_state(adapted), adapted.peft_config["default"]
    with pytest.raises(ValueError, match="default"):
        adapted.add_adapter("default", case.config())
    assert_same_bits(copy_state(adapted), before)
    assert adapted.peft_config["default"] is config


# PEFT mixes copies of some module types only, and OPT flattens a batch before its MLP.
REFUSED = {"norm-saved": TypeError, "opt": AdapterError, "opt-tokens": AdapterError}
MIXED = {name: case for name, case in CASES.items() if name not in REFUSED}
MIXED_CONTROLS = {name: CONTROLS[name] for name in ("lora-perceptron", "lora-saved")}


@parametrized(MIXED | MIXED_CONTROLS)
def test_each_row_of_a_batch_has_the_adapter_that_it_names(case: Case) -> None:
    adapted, _ = two_adapters(case)
    mixed, x = case.outputs(adapted, adapter_names=["second", "__base__", "default"]), model_inputs(case.model)
    with torch.no_grad():
        torch.testing.assert_close(mixed[1], outputs(case.base(), x)[1], rtol=1e-5, atol=1e-5)
        for row, name in {0: "second", 2: "default"}.items():
            adapted.set_adapter(name)
            torch.testing.assert_close(mixed[row], outputs(adapted, x)[row], rtol=1e-5, atol=1e-5)


@parametrized(MIXED)  # LoRA's hooks stay after an error (PEFT 0.21)
def test_names_of_rows_do_not_outlive_the_call(case: Case) -> None:
    adapted, expected = two_adapters(case)
    case.outputs(adapted, adapter_names=["second", "second", "second"])
    assert torch.equal(case.outputs(adapted), expected["default"])
    with pytest.raises(ValueError, match=r"adapter_names.* 1 .*3"):
        case.outputs(adapted, adapter_names=["second"])
    assert torch.equal(case.outputs(adapted), expected["default"])


@pytest.mark.parametrize(("name", "error"), REFUSED.items())
def test_rows_that_cannot_be_told_apart_are_refused(name: str, error: type[Exception]) -> None:
    case = CASES[name]
    adapted, expected = two_adapters(case)
    with pytest.raises(
        error, match=r"Mixed batching is only supported for|adapter_names has 3 names for a batch of 21 rows"
    ):
        case.outputs(adapted, adapter_names=["second", "__base__", "default"])
    assert torch.equal(case.outputs(adapted), expected["default"])


@pytest.mark.parametrize("name", ["butterfly", "fly", "default2", "a b", "é"])
def test_names_that_are_no_parts_of_the_model_work(name: str) -> None:
    case = CASES["stages-strength"]
    expected = case.outputs(case.adapted())
    adapted = case.start()
    adapted.add_adapter(name, case.config())
    adapted.set_adapter(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in (values for values in adapted.parameters() if values.requires_grad):
            values.add_(torch.randn(values.shape, generator=generator), alpha=0.2)
    assert torch.equal(case.outputs(adapted), expected)
    adapted.delete_adapter("default")
    assert torch.equal(case.outputs(adapted), expected)


def test_adapters_on_different_layers_do_not_touch_each_other() -> None:
    case = CASES["defaults"]
    adapted = case.adapted(target_modules=["layers.0"])
    case.add(adapted, "second", target_modules=["layers.1"])
    for seed, (name, targets) in enumerate({"default": ["layers.0"], "second": ["layers.1"]}.items()):
        alone = case.start(target_modules=targets)
        perturb(alone, seed=seed)
        adapted.set_adapter(name)
        assert torch.equal(case.outputs(adapted), case.outputs(alone))


@each_case
def test_a_deleted_name_starts_at_the_base_again(case: Case) -> None:
    adapted, _ = two_adapters(case)
    adapted.delete_adapter("second")
    adapted.add_adapter("second", case.config())
    adapted.set_adapter("second")
    assert torch.equal(case.outputs(adapted), case.outputs(case.base()))
