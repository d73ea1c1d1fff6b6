"""Folders of tiny models with a byte-level tokenizer, to be exported."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from slm_testing.zoo.models import build

WORDS = ("the", "and", "ing", "er", "Ġthe", "Ġa", "Ġs", "Ġw", "ĠĠ", "he", "in", "re", "12")
ROWS = 320  # of the embeddings of the zoo's models
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level_tokenizer(pre_tokenizer: Any = None, **options: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte, a few merges and special tokens of ChatML."""
    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    tokens = [*specials, *letters]
    for word in WORDS:
        known = word[0]
        for letter in word[1:]:
            if known + letter not in tokens:
                merges.append((known, letter))
                tokens.append(known + letter)
            known += letter
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges, **options))
    backend.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def save_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Save a model with a tokenizer, by default that of ``byte_level_tokenizer``."""
    model.save_pretrained(folder)
    (tokenizer or byte_level_tokenizer()).save_pretrained(folder)
    return folder


def save_zoo_model(folder: Path, name: str) -> Path:
    """Save a model of the zoo with a byte-level tokenizer."""
    return save_model(folder, build(name))
