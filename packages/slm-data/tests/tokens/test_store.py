"""Token stores: the tokenizer's own ids, written once, complete or absent."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from slm_data.errors import DataError
from slm_data.sources.documents import Documents
from slm_data.tokens import encoding
from slm_data.tokens import store as store_module
from slm_data.tokens.bpe import END, START, train_tokenizer
from slm_data.tokens.encoder import join_batches
from slm_data.tokens.encoding import encode_all, encode_in_batches
from slm_data.tokens.settings import EncodingOptions, encoding_settings
from slm_data.tokens.store import TokenStore, corpus_fingerprint, token_cache_dir, tokenize

InMemory = Callable[..., Documents]
EOS = 1


def documents_of(store: TokenStore) -> list[list[int]]:
    ends = np.cumsum(store.lengths)
    return [part.tolist() for part in np.split(np.asarray(store.tokens), ends[:-1])]


def unreadable(identity: str = "test") -> Documents:
    def read() -> Iterator[str]:
        raise AssertionError("the documents were read")

    return Documents("unreadable", identity, read)


def stores_in(cache: Path) -> list[str]:
    return sorted(os.listdir(cache / "tokens"))


def word_tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


@given(st.lists(st.text() | st.sampled_from([END, START, f"a{END}b", f"a{END}", "x" * 500]), min_size=1, max_size=8))
@settings(max_examples=40)
def test_a_document_with_parsed_special_tokens_is_the_tokenizers_ids_and_an_end_token(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, texts: list[str]
) -> None:
    not_blank = [text for text in texts if text and not text.isspace()]
    with TemporaryDirectory() as cache:
        if not not_blank:
            with pytest.raises(DataError, match="texts contains no text"):
                tokenize(in_memory(texts), tokenizer, cache_dir=Path(cache), workers=1)
            return
        options = EncodingOptions(parse_special_tokens=True)
        store = tokenize(in_memory(texts), tokenizer, options, cache_dir=Path(cache), workers=1)
        ids = [tokenizer(text)["input_ids"] for text in not_blank]
        closed = [document if document[-1] == EOS else [*document, EOS] for document in ids]
        assert documents_of(store) == closed
        assert store.counts.tokens == sum(map(len, closed)) == len(store.tokens)
        assert store.counts.text_bytes == len("".join(not_blank).encode())


@given(st.lists(st.sampled_from([END, START, f"a{END}b", "é \ue000", f"{END[:5]}", "the hen"]), min_size=1, max_size=8))
@settings(max_examples=40)
def test_special_tokens_in_a_text_are_plain_text_and_counted(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, texts: list[str]
) -> None:
    with TemporaryDirectory() as cache:
        store = tokenize(in_memory(texts), tokenizer, cache_dir=Path(cache), workers=1)
        documents = documents_of(store)
        assert [tokenizer.decode(document[1:-1]) for document in documents] == texts
        assert all({0, 1}.isdisjoint(document[1:-1]) for document in documents)
        assert store.counts.special_texts == sum(text.count(END) + text.count(START) for text in texts)


def test_counts_contain_documents_tokens_bytes_and_start_tokens(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, tmp_path: Path
) -> None:
    store = tokenize(in_memory(["né", " ", "", "the hen"]), tokenizer, cache_dir=tmp_path, workers=1)
    predicted = len(tokenizer("né")["input_ids"]) + len(tokenizer("the hen")["input_ids"])
    assert (store.counts.documents, store.counts.text_bytes, store.counts.start_tokens) == (2, 10, 2)
    assert store.counts.tokens == predicted + 2
    assert store.tokens_per_byte == pytest.approx(predicted / 10)
    assert (store.name, store.lengths.sum()) == ("texts", predicted + 2)


def test_a_tokenizer_without_a_start_token_adds_none(in_memory: InMemory, tmp_path: Path) -> None:
    words = word_tokenizer({"<end>": 0, "a": 1, "b": 2})
    store = tokenize(in_memory(["a b", "b"]), words, cache_dir=tmp_path, workers=1)
    assert documents_of(store) == [[1, 2, 0], [2, 0]]
    assert store.counts.start_tokens == 0
    assert store.tokens_per_byte == pytest.approx(5 / 4)


def test_a_second_call_reads_the_file_and_not_the_documents(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, sentences: tuple[str, ...], tmp_path: Path
) -> None:
    first = tokenize(in_memory(sentences), tokenizer, cache_dir=tmp_path, workers=1)
    second = tokenize(unreadable(), tokenizer, cache_dir=tmp_path, workers=1)
    assert (first.reused, second.reused) == (False, True)
    assert documents_of(second) == documents_of(first)
    assert (second.counts, second.fingerprint) == (first.counts, first.fingerprint)
    assert isinstance(second.tokens, np.memmap)


def test_different_texts_or_another_tokenizer_make_another_store(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, sentences: tuple[str, ...], tmp_path: Path
) -> None:
    other = train_tokenizer(sentences, 300, 128)
    made = [
        tokenize(in_memory(sentences, identity), using, cache_dir=tmp_path, workers=1)
        for identity in ("one", "two")
        for using in (tokenizer, other)
    ]
    assert not any(store.reused for store in made)
    assert len({store.fingerprint for store in made}) == 4
    assert stores_in(tmp_path) == sorted(store.fingerprint for store in made)


def test_the_fingerprint_of_a_loaded_tokenizer_does_not_depend_on_its_use(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    before = corpus_fingerprint(unreadable(), tokenizer)
    assert corpus_fingerprint(unreadable(), loaded) == before
    loaded(["a", "a long text that is cut"], truncation=True, max_length=3, padding="max_length")
    assert corpus_fingerprint(unreadable(), loaded) == before
    assert corpus_fingerprint(unreadable("other"), loaded) != before


def test_no_text_is_truncated_although_the_tokenizer_was_set_to_truncate(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, tmp_path: Path
) -> None:
    long = "the hen " * 200
    whole = tokenizer(long)["input_ids"]
    tokenizer(long, truncation=True, max_length=4)
    assert documents_of(tokenize(in_memory([long]), tokenizer, cache_dir=tmp_path, workers=1)) == [[*whole, EOS]]


def test_workers_write_the_same_file(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BATCHES_BEFORE_WORKERS", 1)
    monkeypatch.setattr(encoding, "DOCUMENTS_PER_BATCH", 3)
    texts = in_memory([f"story {number} of the hen" * (number % 7 + 1) for number in range(40)])
    alone, together = (tokenize(texts, tokenizer, cache_dir=tmp_path / str(n), workers=n) for n in (1, 2))
    assert documents_of(together) == documents_of(alone)
    assert together.counts == alone.counts


def test_an_error_while_reading_leaves_nothing_behind(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, tmp_path: Path
) -> None:
    def read() -> Iterator[str]:
        yield from ["a story"] * (encoding.DOCUMENTS_PER_BATCH + 1)
        raise DataError("line 514 is no JSON")

    with pytest.raises(DataError, match="line 514"):
        tokenize(Documents("broken", "test", read), tokenizer, cache_dir=tmp_path, workers=1)
    assert stores_in(tmp_path) == []
    assert not tokenize(in_memory(["repaired"]), tokenizer, cache_dir=tmp_path, workers=1).reused


def test_a_corpus_without_text_is_refused_and_leaves_nothing_behind(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="texts contains no text"):
        tokenize(in_memory(["", " \n"]), tokenizer, cache_dir=tmp_path, workers=1)
    assert stores_in(tmp_path) == []


def test_two_processes_can_make_the_same_store_at_once(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, sentences: tuple[str, ...], tmp_path: Path
) -> None:
    def read() -> Iterator[str]:
        yield sentences[0]
        tokenize(in_memory(sentences), tokenizer, cache_dir=tmp_path, workers=1)  # the other process finishes first
        yield from sentences[1:]

    store = tokenize(Documents("slow", "test", read), tokenizer, cache_dir=tmp_path, workers=1)
    assert len(documents_of(store)) == len(sentences)
    assert stores_in(tmp_path) == [store.fingerprint]


@pytest.mark.parametrize(
    ("highest", "dtype"), [(65535, np.uint16), (65536, np.uint32)], ids=["fits in 16 bits", "one too many"]
)
def test_ids_are_stored_in_as_few_bytes_as_the_vocabulary_needs(
    in_memory: InMemory, tmp_path: Path, highest: int, dtype: type[np.unsignedinteger]
) -> None:
    words = word_tokenizer({"<end>": 0, "last": highest} | {f"w{at}": at for at in range(1, highest)})
    store = tokenize(in_memory(["last w1"]), words, cache_dir=tmp_path, workers=1)
    assert store.tokens.dtype == dtype
    assert documents_of(store) == [[highest, 1, 0]]


def test_a_vocabulary_with_gaps_loses_no_high_id(in_memory: InMemory, tmp_path: Path) -> None:
    words = word_tokenizer({"<end>": 0, "low": 1, "high": 70000})
    store = tokenize(in_memory(["high low"]), words, cache_dir=tmp_path, workers=1)
    assert documents_of(store) == [[70000, 1, 0]]


def test_batches_hold_the_same_tokens_as_the_store(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, sentences: tuple[str, ...], tmp_path: Path
) -> None:
    store = tokenize(in_memory(sentences), tokenizer, cache_dir=tmp_path, workers=1)
    batches = list(
        encode_in_batches(in_memory(sentences), encoding_settings(tokenizer, EncodingOptions(), data_format="text"), 2)
    )
    assert [len(batch.lengths) for batch in batches] == [2, 2, 1]
    assert np.concatenate([batch.ids for batch in batches]).tolist() == store.tokens.tolist()
    assert np.concatenate([batch.lengths for batch in batches]).tolist() == store.lengths.tolist()


def test_long_documents_make_smaller_batches_of_the_same_tokens(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, documents = encoding_settings(tokenizer, EncodingOptions(), data_format="text"), in_memory(sentences)
    (whole,) = encode_all(documents, settings, workers=1)
    monkeypatch.setattr(encoding, "CHARACTERS_PER_BATCH", 2 * max(map(len, sentences)))
    parts = list(encode_all(documents, settings, workers=1))
    assert sum(len(part.lengths) > 1 for part in parts) > 1
    (window,) = encode_in_batches(documents, settings, len(sentences))  # rows depend on windows, so these stay whole
    for batch in (join_batches(parts), window):
        assert batch.ids.tolist() == whole.ids.tolist()
        assert batch.lengths.tolist() == whole.lengths.tolist()
        assert batch.text_bytes == whole.text_bytes


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    endless = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(DataError, match="no end-of-text token to separate documents with; set eos_token"):
        tokenize(unreadable(), endless, cache_dir=tmp_path)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no fast version"):
        tokenize(unreadable(), ByT5Tokenizer(), cache_dir=tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_reported_with_the_folder_and_a_remedy(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_full_disk(**settings: str) -> str:
        folder = mkdtemp(**settings)
        (Path(folder) / "tokens.bin").symlink_to("/dev/full")
        return folder

    monkeypatch.setattr(store_module.tempfile, "mkdtemp", on_a_full_disk)
    with pytest.raises(DataError, match=r"No space left on device.*SLM_CACHE") as caught:
        tokenize(in_memory(["the hen"] * 2000), tokenizer, cache_dir=tmp_path, workers=1)
    assert str(tmp_path) in str(caught.value)
    assert stores_in(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_reported(
    tokenizer: PreTrainedTokenizerBase, in_memory: InMemory, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*SLM_CACHE"):
        tokenize(in_memory(["a"]), tokenizer, cache_dir=tmp_path / "file", workers=1)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("SLM_CACHE", raising=False)
    assert token_cache_dir() == tmp_path / "xdg" / "slm"
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "own"))
    assert token_cache_dir() == tmp_path / "own"
