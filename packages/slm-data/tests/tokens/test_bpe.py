"""The trained BPE tokenizer: any text decodes back, before and after saving."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from slm_data.errors import DataError
from slm_data.tokens.bpe import END, START, train_tokenizer

UNUSUAL = (
    "",
    " ",
    "\n\n\t ",
    "a  b",
    "\x00\x7f",
    "héllo—“q”",
    "👩‍👩‍👧 مرحبا 你好",
    "don 't do n't .",
    f"a{END}b{START}",
)


@given(st.text())
@example("".join(map(chr, range(256))))
def test_any_text_decodes_back_byte_for_byte(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    start, *ids = tokenizer(text)["input_ids"]
    assert start == tokenizer.bos_token_id
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", UNUSUAL)
def test_unusual_texts_decode_back_byte_for_byte(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"][1:]) == text


def test_start_end_and_padding_have_the_documented_ids(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_tokens_to_ids([START, END]) == [0, 1]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 1)


def test_the_start_is_added_once_and_the_end_never(
    tokenizer: PreTrainedTokenizerBase, sentences: tuple[str, ...]
) -> None:
    for text in sentences:
        ids = tokenizer(text)["input_ids"]
        assert ids.count(0) == 1
        assert 1 not in ids
    assert tokenizer("a", "b")["input_ids"].count(0) == 1


def test_words_of_the_training_texts_are_merged(tokenizer: PreTrainedTokenizerBase, sentences: tuple[str, ...]) -> None:
    assert len(tokenizer) == 320
    assert len(tokenizer(sentences[0])["input_ids"]) < len(sentences[0].encode()) * 0.8


def test_a_saved_tokenizer_loads_with_the_same_ids(
    tokenizer: PreTrainedTokenizerBase, sentences: tuple[str, ...], tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast
    for text in (*sentences, *UNUSUAL):
        ids = tokenizer(text)["input_ids"]
        assert loaded(text)["input_ids"] == ids
        assert loaded.decode(ids) == tokenizer.decode(ids)
    assert loaded.model_max_length == 128
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 1, 1)


def test_the_same_texts_give_the_same_tokenizer(tokenizer: PreTrainedTokenizerBase, sentences: tuple[str, ...]) -> None:
    assert train_tokenizer(sentences, 320, 128).get_vocab() == tokenizer.get_vocab()


def test_the_smallest_vocabulary_is_bytes_and_two_special_tokens(sentences: tuple[str, ...]) -> None:
    smallest = train_tokenizer(sentences, 258, 128)
    assert len(smallest) == 258
    assert len(smallest("né")["input_ids"]) == 1 + 3
    with pytest.raises(DataError, match="--vocab_size 257 is too small"):
        train_tokenizer(sentences, 257, 128)
