"""Target layers of an adapter, and the message for a wrong name."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from slm_adapters import AdapterError, check_targets, default_targets
from slm_adapters.targets import linear_layers

MakeModel = Callable[[str], PreTrainedModel]

LLAMA = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
DEFAULTS = {
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "llama": LLAMA,
    "neox": ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"],
    "qwen2": LLAMA,
}
all_models = pytest.mark.parametrize("name", DEFAULTS)


@all_models
def test_the_defaults_are_every_linear_layer_of_the_blocks(tiny: MakeModel, name: str) -> None:
    assert default_targets(tiny(name)) == DEFAULTS[name]


@all_models
def test_the_output_embeddings_are_a_target_only_if_they_are_named_and_not_tied(tiny: MakeModel, name: str) -> None:
    model = tiny(name)
    head = model.get_output_embeddings()
    assert all(layer is not head for layer in linear_layers(model).values())
    [head_name] = [at for at, module in model.named_modules() if module is head]
    assert head_name not in default_targets(model)
    if name != "gpt2":
        assert check_targets(model, [head_name]) == [head_name]
        return
    with pytest.raises(AdapterError, match=r"lm_head shares its weight with transformer.wte: .*--modules_to_save"):
        check_targets(model, [head_name])


@all_models
def test_the_defaults_pass_their_own_check(tiny: MakeModel, name: str) -> None:
    assert check_targets(tiny(name), DEFAULTS[name]) == DEFAULTS[name]


def test_a_name_may_be_any_end_of_a_layers_full_name(tiny: MakeModel) -> None:
    for name in ("c_proj", "attn.c_proj", "h.1.mlp.c_proj", "transformer.h.0.attn.c_proj"):
        assert check_targets(tiny("gpt2"), [name]) == [name]


def test_a_part_of_a_name_component_does_not_match(tiny: MakeModel) -> None:
    for name in ("proj", "tn.c_proj", "c_pro", "h.1", "transformer.h.0.attn", "wte", ""):
        with pytest.raises(AdapterError, match="matches no linear layer"):
            check_targets(tiny("gpt2"), [name])


def test_the_error_for_a_wrong_name_lists_what_exists_and_suggests_one(tiny: MakeModel) -> None:
    with pytest.raises(AdapterError) as message:
        check_targets(tiny("gpt2"), ["c_atn"])
    assert str(message.value) == (
        "target module 'c_atn' matches no linear layer of this model; did you mean c_attn? it has c_attn, c_fc, c_proj"
    )


def test_a_name_unlike_all_existing_ones_gets_no_suggestion(tiny: MakeModel) -> None:
    with pytest.raises(AdapterError) as message:
        check_targets(tiny("llama"), ["c_attn"])
    assert "did you mean" not in str(message.value)
    assert ", ".join(LLAMA) in str(message.value)


def test_a_list_with_one_wrong_name_is_refused(tiny: MakeModel) -> None:
    with pytest.raises(AdapterError, match=r"'v_prj'.*did you mean v_proj\?"):
        check_targets(tiny("llama"), ["q_proj", "v_prj"])
