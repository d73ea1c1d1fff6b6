"""Butterfly adapters with plain PEFT on models whose output layer has the weight of the input embeddings."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from slm_adapters import AdapterError, ButterflyConfig
from slm_testing.adapters.tiny_adapters import (
    MakeModel,
    assert_close,
    assert_differ,
    layers,
    logits,
    random_butterfly,
    randomize_angles,
)


@pytest.fixture
def tied(tiny: MakeModel) -> MakeModel:
    """``tied(name)``: GPT-2, or a Llama with tied embeddings as SmolLM2 has them."""

    def build(name: str) -> PreTrainedModel:
        if name == "gpt2":
            return tiny("gpt2")
        torch.manual_seed(0)
        sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        tokens = {"vocab_size": 48, "bos_token_id": 0, "eos_token_id": 1}
        return LlamaForCausalLM(LlamaConfig(**sizes, **tokens, tie_word_embeddings=True)).eval()

    return build


both_models = pytest.mark.parametrize("name", ["gpt2", "llama"])
EMBEDDINGS = {"gpt2": "transformer.wte", "llama": "model.embed_tokens"}
BLOCK_LAYER = {"gpt2": "c_attn", "llama": "q_proj"}


@both_models
@pytest.mark.parametrize("targets", [["lm_head"], "lm_head", r".*(c_attn|q_proj|lm_head)$"], ids=str)
@pytest.mark.parametrize("ensure_weight_tying", [False, True])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_tied_head_is_refused_as_a_target(
    tied: MakeModel, name: str, targets: Any, ensure_weight_tying: bool
) -> None:
    config = ButterflyConfig(target_modules=targets, ensure_weight_tying=ensure_weight_tying)
    message = rf"^lm_head shares its weight with {EMBEDDINGS[name]}: a merge would change both; leave it out .*[^.]$"
    with pytest.raises(AdapterError, match=message):
        get_peft_model(tied(name), config)


@both_models
def test_a_head_with_a_weight_of_its_own_is_trained_merged_and_saved_without_the_embeddings(
    tied: MakeModel, name: str, input_ids: Tensor, tmp_path: Path
) -> None:
    def untied() -> Any:
        model: Any = tied(name)
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())  # as the message of the refusal says
        model.config.tie_word_embeddings = False
        return model

    adapted = random_butterfly(untied(), target_modules=["lm_head"])
    expected = logits(adapted, input_ids)
    assert_differ(expected, logits(tied(name), input_ids))
    adapted.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(PeftModel.from_pretrained(untied(), tmp_path / "adapter"), input_ids), expected)
    merged = adapted.merge_and_unload()
    assert torch.equal(merged.get_input_embeddings().weight, tied(name).get_input_embeddings().weight)
    merged.save_pretrained(tmp_path / "merged")
    assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), input_ids), expected)


@both_models
@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_the_default_targets_leave_a_tied_head_out(tied: MakeModel, name: str, targets: str | None) -> None:
    adapted = get_peft_model(tied(name), ButterflyConfig(target_modules=targets))
    assert layers(adapted)
    assert not [at for at in layers(adapted) if at.endswith("lm_head")]


class SharedBlocks(nn.Module):
    """``second`` has the weight of ``first``; ``again`` is ``own`` itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.own = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.alone, self.again = nn.Linear(8, 8), self.own
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.again(self.alone(self.own(self.second(self.first(x)))))
        return y


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("first", "shares its weight with second: a merge would change both"),
        ("second", "shares its weight with first: a merge would change both"),
        ("own", "is used in several places of the model, of which an adapter would change one"),
    ],
)
def test_layers_that_share_their_weight_are_refused(target: str, reason: str) -> None:
    with pytest.raises(AdapterError, match=rf"^{target} {reason}; leave it out of the target modules"):
        get_peft_model(SharedBlocks(), ButterflyConfig(target_modules=[target]))


def test_the_default_targets_leave_layers_out_that_share_their_weight() -> None:
    adapted = get_peft_model(SharedBlocks(), ButterflyConfig())
    assert [at.rpartition(".")[2] for at in layers(adapted)] == ["alone"]
    adapted.add_adapter("other", ButterflyConfig())
    assert all("other" in layer.rotations for layer in layers(adapted).values())
    randomize_angles(adapted)
    expected = adapted(torch.ones(1, 8))
    assert_differ(expected, SharedBlocks()(torch.ones(1, 8)))
    assert_close(adapted.merge_and_unload()(torch.ones(1, 8)), expected)


def test_an_embedding_is_refused_as_a_target(tied: MakeModel) -> None:
    with pytest.raises(AdapterError, match=r"^model.embed_tokens \(class Embedding\) is not a linear layer"):
        get_peft_model(tied("llama"), ButterflyConfig(target_modules=["embed_tokens"]))


TRAINED: dict[str, dict[str, Any]] = {
    "embeddings": {"modules_to_save": ["EMBEDDINGS"]},
    "head": {"modules_to_save": ["lm_head"]},
    "embeddings tied": {"modules_to_save": ["EMBEDDINGS"], "ensure_weight_tying": True},
    "head tied": {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    "rows": {"trainable_token_indices": [3, 4]},
}


@both_models
@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT's, without ensure_weight_tying
@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied")
def test_trained_embeddings_are_saved_loaded_and_merged(
    tied: MakeModel, name: str, trained: str, input_ids: Tensor, tmp_path: Path
) -> None:
    options = deepcopy(TRAINED[trained])  # PEFT changes the list
    if options.get("modules_to_save") == ["EMBEDDINGS"]:
        options["modules_to_save"] = [EMBEDDINGS[name].rpartition(".")[2]]
    adapted = random_butterfly(tied(name), target_modules=[BLOCK_LAYER[name]], **options)
    optimizer = torch.optim.SGD([values for values in adapted.parameters() if values.requires_grad], lr=1.0)
    adapted(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
    optimizer.step()
    stays_tied = "tied" in trained or trained == "rows"
    embeddings, head = adapted.get_input_embeddings(), adapted.get_base_model().get_output_embeddings()
    assert torch.equal(embeddings.weight, head.weight) == stays_tied
    expected = logits(adapted, input_ids)
    assert_differ(expected, logits(random_butterfly(tied(name), target_modules=[BLOCK_LAYER[name]]), input_ids))
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tied(name), tmp_path / "adapter", is_trainable=True).eval()
    assert torch.equal(logits(loaded, input_ids), expected)
    if trained != "rows":  # whose embeddings are wrapped
        assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) == stays_tied
    merged = adapted.merge_and_unload()
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == stays_tied
    assert merged.config.tie_word_embeddings == stays_tied
    merged.save_pretrained(tmp_path / "merged")
    assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), input_ids), expected)
