"""From names and files to training and validation texts: the split, the limits and the refusals."""

import glob
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from slm_data.errors import DataError
from slm_data.sample.built_in import BUILT_IN, TRAIN_SEED
from slm_data.sources.corpus import load_corpus
from slm_data.sources.documents import Corpus
from slm_data.sources.options import SourceOptions

COUNT = 100


def texts(first: int, count: int) -> list[str]:
    return [f"Text {number}." for number in range(first, first + count)]


def jsonl(path: Path, lines: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": line, "id": line}) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return jsonl(tmp_path / "train.jsonl", texts(0, COUNT))


def load(**options: Any) -> Corpus:
    return load_corpus(SourceOptions(**options))


def refused(**options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(**options)
    return str(caught.value)


def test_a_source_without_a_validation_split_gets_one_and_a_note(file: str) -> None:
    corpus = load(train_file=[file], validation_fraction=0.1, split_seed=3)
    assert sorted([*corpus.train, *corpus.validation]) == sorted(texts(0, COUNT))
    assert len(list(corpus.validation)) == 10
    (note,) = corpus.notes
    assert "one document in 10 (seed 3)" in note


def test_the_end_of_a_single_document_is_held_out_and_a_note_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(texts(0, 20)))
    corpus = load(train_file=[str(path)], validation_fraction=0.1)
    assert list(corpus.train) == ["\n".join(texts(0, 18)) + "\n"]
    assert list(corpus.validation) == ["\n".join(texts(18, 2))]
    assert corpus.read_both is not None
    assert list(corpus.read_both()) == [(*corpus.train, False), (*corpus.validation, True)]
    assert corpus.train.identity != corpus.validation.identity
    (note,) = corpus.notes
    assert all(words in note for words in ("1 document", "--document_separator '\\n\\n'", "last 10%")), note


def test_a_single_document_that_cannot_be_divided_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one line")
    message = refused(train_file=[str(path)])
    assert all(words in message for words in ("1 document", "--document_separator", "--validation_file")), message


@pytest.mark.parametrize("count", [2, 3, 19])
def test_of_fewer_documents_than_one_window_one_is_held_out(tmp_path: Path, count: int) -> None:
    corpus = load(train_file=[jsonl(tmp_path / "few.jsonl", texts(0, count))])
    assert (len(list(corpus.train)), len(list(corpus.validation))) == (count - 1, 1)
    assert f"one document in {count}" in corpus.notes[0]


def test_files_without_text_are_reported_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(" \n\n\t\n")
    assert refused(train_file=[str(path)]) == "a.txt contains no text; choose another source"


def test_own_validation_files_are_taken_whole(tmp_path: Path, file: str) -> None:
    other = jsonl(tmp_path / "validation.jsonl", texts(500, 3))
    corpus = load(train_file=[file], validation_file=[other])
    assert list(corpus.train) == texts(0, COUNT)
    assert list(corpus.validation) == texts(500, 3)
    assert corpus.notes == ()
    assert list(load(dataset="sample", validation_file=[other]).validation) == texts(500, 3)


def test_blank_documents_are_skipped_before_counting(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ["", "one", " \n", "two", "three"])
    corpus = load(train_file=[path], validation_file=[jsonl(tmp_path / "b.jsonl", ["x"])], max_train_samples=2)
    assert list(corpus.train) == ["one", "two"]


def test_texts_can_be_read_again_and_a_limit_takes_the_first(file: str) -> None:
    whole, limited = load(train_file=[file]), load(train_file=[file], max_train_samples=7, max_eval_samples=2)
    assert list(limited.train) == list(whole.train)[:7] == list(limited.train)
    assert list(limited.validation) == list(whole.validation)[:2]


def test_nothing_is_read_beyond_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    jsonl(path, texts(0, COUNT))
    with path.open("a") as out:
        out.write("broken")
    assert len(list(load(train_file=[str(path)], max_train_samples=9).train)) == 9
    with pytest.raises(DataError, match="line 101"):
        list(load(train_file=[str(path)]).train)


def test_a_setting_of_other_formats_does_not_change_the_identity(file: str) -> None:
    corpus = load(train_file=[file], document_separator="==")
    assert corpus.train.identity == load(train_file=[file]).train.identity
    assert any("--document_separator '=='" in note for note in corpus.notes)


def test_the_identity_changes_with_whatever_changes_the_texts(tmp_path: Path, file: str) -> None:
    other, txt = jsonl(tmp_path / "other.jsonl", texts(COUNT, COUNT)), str(tmp_path / "a.txt")
    Path(txt).write_text("\n\n".join(texts(0, COUNT)))
    variants: list[dict[str, Any]] = [
        {"train_file": [file]},
        {"train_file": [txt]},
        {"train_file": [txt], "document_separator": "\\n"},
        {"train_file": [file], "text_column": "id"},
        {"train_file": [file, other]},
        {"train_file": [file], "validation_file": [other]},
        {"train_file": [file], "max_train_samples": 5},
        {"train_file": [file], "split_seed": 1},
        {"train_file": [file], "validation_fraction": 0.1},
        {"dataset": "sample"},
        {"dataset": "harbour"},
        {"dataset": "sample", "max_train_samples": 5},
    ]
    identities = {load(**options).train.identity for options in variants}
    assert len(identities) == len(variants)
    assert load(**variants[0]).train.identity == load(**variants[0]).train.identity
    assert load(**variants[0]).train.identity != load(**variants[0]).validation.identity


def test_a_fault_in_any_file_is_reported_before_the_first_is_read(tmp_path: Path, file: str) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("story\nOnce.\n")
    assert "no column 'text'" in refused(train_file=[file, str(wrong)])
    assert "no column 'text'" in refused(train_file=[file], validation_file=[str(wrong)])


def test_each_pattern_is_expanded_once(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(tmp_path / "validation.jsonl", texts(500, 3))
    expand, patterns = glob.glob, list[str]()

    def counted(pattern: str, **options: Any) -> list[str]:
        patterns.append(pattern)
        return expand(pattern, **options)

    monkeypatch.setattr(glob, "glob", counted)
    train, validation = str(tmp_path / "tr*.jsonl"), str(tmp_path / "val*.jsonl")
    assert list(load(train_file=[train], validation_file=[validation]).validation) == texts(500, 3)
    assert patterns == [train, validation]


def test_the_same_texts_cannot_train_and_validate(tmp_path: Path, file: str) -> None:
    assert "train.jsonl" in refused(train_file=[file], validation_file=[file])
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(file).read_bytes())
    assert "copy.jsonl have the same content" in refused(train_file=[file], validation_file=[str(copy)])


def test_without_options_the_source_is_the_sample() -> None:
    corpus = load()
    assert corpus.name == "sample"
    assert len(list(corpus.train)) == BUILT_IN["sample"].train_stories
    assert len(list(corpus.validation)) == BUILT_IN["sample"].validation_stories


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_corpus_is_as_long_as_requested(name: str) -> None:
    count = BUILT_IN[name].train_stories + 5
    corpus = load(dataset=name.upper(), max_train_samples=count, max_eval_samples=3)
    assert corpus.name == name
    assert list(corpus.train) == list(BUILT_IN[name].stories(count, TRAIN_SEED))
    assert len(list(corpus.validation)) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tinystorys", "did you mean tinystories? Choose from tinystories, wikitext2, sample, harbour, or use"),
        ("smaple", "did you mean sample?"),
        ("zzz", "Choose from tinystories"),
        ("owner/name:config:more", "unknown dataset"),
        ("texts/mine.jsonl", "--train_file"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, expected: str) -> None:
    message = refused(dataset=name)
    assert expected in message
    assert name in message


def test_ignored_settings_are_reported(file: str) -> None:
    assert any("--streaming" in note for note in load(train_file=[file], streaming=True).notes)
    assert any("--text_column plot" in note for note in load(text_column="plot").notes)
    assert load(train_file=[file], text_column="text").notes == load(train_file=[file]).notes


def test_reading_is_lazy() -> None:
    corpus = load(dataset="sample", max_train_samples=10**9)
    assert len(list(islice(corpus.train, 3))) == 3


def test_training_and_validation_texts_must_have_the_same_format(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}], "text": "a"}\n' * 3)
    (tmp_path / "texts.txt").write_text("a text")
    files = {"train_file": [str(tmp_path / "chats.jsonl")], "validation_file": [str(tmp_path / "texts.txt")]}
    with pytest.raises(DataError, match=r"format messages and texts\.txt the format text; .* --data_format"):
        load_corpus(SourceOptions(**files))
    assert load_corpus(SourceOptions(**files, data_format="text")).train.data_format == "text"
