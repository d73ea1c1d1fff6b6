from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from slm_data import DataError, Documents, tokenize, train_tokenizer
from slm_data import tokens as tokens_module
from slm_data.sample.corpus import stories


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(stories(60, seed=0), 400, model_max_length=64)


def documents(texts: list[str], identity: str = "these") -> Documents:
    return Documents("some texts", identity, lambda: iter(texts))


def never() -> Iterator[str]:
    raise AssertionError("the texts were read again")


TEXTS = ["one <|endoftext|> inside", "tidal \x00 bells", "ünïcödé 🌊", "x", " leading and trailing  ", "a\r\nb\n\n"]


def test_the_store_holds_what_the_tokenizer_says_and_an_end_after_each_document(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    store = tokenize(documents(TEXTS), tokenizer, cache_dir=tmp_path)
    expected = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]
    assert store.lengths.tolist() == [len(ids) for ids in expected]
    assert store.tokens.tolist() == [token for ids in expected for token in ids]
    assert store.counts.documents == store.counts.start_tokens == len(TEXTS)
    assert store.counts.text_bytes == sum(len(text.encode()) for text in TEXTS)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1).filter(lambda text: bool(text.strip())))
def test_any_text_comes_back_byte_for_byte(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens="<|" not in text).removeprefix("<|startoftext|>") == text


def test_a_second_call_reads_no_text(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    first = tokenize(documents(TEXTS), tokenizer, cache_dir=tmp_path)
    second = tokenize(Documents("some texts", "these", never), tokenizer, cache_dir=tmp_path)
    assert (first.reused, second.reused) == (False, True)
    assert second.tokens.tolist() == first.tokens.tolist()
    assert second.counts == first.counts


def test_other_texts_or_another_tokenizer_are_tokenised_anew(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    other = train_tokenizer(stories(60, seed=0), 350, model_max_length=64)
    found = [
        tokenize(documents(TEXTS, identity), which, cache_dir=tmp_path)
        for identity, which in (("these", tokenizer), ("those", tokenizer), ("these", other))
    ]
    assert [store.reused for store in found] == [False, False, False]
    assert len({store.fingerprint for store in found}) == 3


def test_worker_processes_give_the_same_file(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "BATCH", 8)
    monkeypatch.setattr(tokens_module, "BATCHES_BEFORE_WORKERS", 2)
    texts = list(stories(100, seed=3))
    one = tokenize(documents(texts), tokenizer, cache_dir=tmp_path / "one", workers=1)
    two = tokenize(documents(texts), tokenizer, cache_dir=tmp_path / "two", workers=2)
    assert np.array_equal(one.tokens, two.tokens)
    assert one.counts == two.counts


def test_a_source_that_breaks_leaves_nothing_behind(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    def breaking() -> Iterator[str]:
        yield from ["one", "two"]
        raise DataError("line 3 is broken")

    with pytest.raises(DataError, match="line 3"):
        tokenize(Documents("broken", "broken", breaking), tokenizer, cache_dir=tmp_path)
    assert not list((tmp_path / "tokens").iterdir())


def test_a_corpus_without_text_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no text"):
        tokenize(documents([]), tokenizer, cache_dir=tmp_path)


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "t")
    without = AutoTokenizer.from_pretrained(tmp_path / "t")
    without.eos_token = None
    with pytest.raises(DataError, match="end-of-text"):
        tokenize(documents(TEXTS), without, cache_dir=tmp_path)


def test_a_saved_tokenizer_gives_the_same_ids(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [again(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]


def test_a_vocabulary_too_small_for_bytes_is_refused() -> None:
    with pytest.raises(DataError, match="--vocab_size 200"):
        train_tokenizer(["a"], 200, model_max_length=64)
