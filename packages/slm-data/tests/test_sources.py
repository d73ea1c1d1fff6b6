"""Names and files to training and validation texts: the split, the caps, and what is refused."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import HfArgumentParser

from slm_data import holdout
from slm_data.errors import DataError
from slm_data.options import SourceOptions
from slm_data.sample import corpus as sample
from slm_data.sources import Corpus, load_corpus
from slm_data.wikitext import articles

COUNT = 100


def texts(first: int, count: int) -> list[str]:
    return [f"Text {number}." for number in range(first, first + count)]


def jsonl(path: Path, lines: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
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


# The split


@given(count=st.integers(0, 200), window=st.integers(2, 40), seed=st.integers(0, 9))
def test_each_text_is_in_one_part_in_order_and_one_of_every_window_is_held_out(
    count: int, window: int, seed: int
) -> None:
    whole = [str(number) for number in range(count)]
    held_out = list(holdout.held_out(whole, window, seed))
    kept = list(holdout.kept(whole, window, seed))
    assert sorted(held_out + kept, key=int) == whole
    assert held_out == sorted(held_out, key=int)
    assert kept == sorted(kept, key=int)
    assert count // window <= len(held_out) <= -(-count // window)
    assert holdout.too_few(count, window, seed) == (not held_out or not kept)


def test_the_split_depends_on_the_seed_alone() -> None:
    whole = texts(0, COUNT)
    assert list(holdout.held_out(whole, 20, 1)) == list(holdout.held_out(whole, 20, 1))
    assert list(holdout.held_out(whole, 20, 1)) != list(holdout.held_out(whole, 20, 2))


def test_a_file_without_validation_texts_gets_some_and_says_so(file: str) -> None:
    corpus = load(train_file=[file], validation_fraction=0.1, split_seed=3)
    assert sorted([*corpus.train, *corpus.validation]) == sorted(texts(0, COUNT))
    assert len(list(corpus.validation)) == 10
    (note,) = corpus.notes
    assert "one document in 10 (seed 3)" in note


def test_too_few_documents_to_split_are_told_with_their_count(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one line\nanother line\n")
    message = refused(train_file=[str(path)])
    assert all(
        words in message
        for words in (
            "holds 1 document ",
            "--document_separator",
            "--validation_fraction",
            "--validation_file",
        )
    )
    two = load(train_file=[str(path)], document_separator="\\n", validation_fraction=0.5)
    assert len(list(two.train)) == len(list(two.validation)) == 1


# Files


def test_own_validation_files_are_taken_whole(tmp_path: Path, file: str) -> None:
    other = jsonl(tmp_path / "validation.jsonl", texts(500, 3))
    corpus = load(train_file=[file], validation_file=[other])
    assert list(corpus.train) == texts(0, COUNT)
    assert list(corpus.validation) == texts(500, 3)
    assert corpus.notes == ()
    assert list(load(dataset="sample", validation_file=[other]).validation) == texts(500, 3)


def test_blank_documents_are_passed_over_before_any_count(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ["", "one", " \n", "two", "three"])
    corpus = load(train_file=[path], validation_file=[jsonl(tmp_path / "b.jsonl", ["x"])], max_train_samples=2)
    assert list(corpus.train) == ["one", "two"]


def test_texts_can_be_read_again_and_a_cap_takes_the_first(file: str) -> None:
    whole, capped = load(train_file=[file]), load(train_file=[file], max_train_samples=7, max_eval_samples=2)
    assert list(capped.train) == list(whole.train)[:7] == list(capped.train)
    assert list(capped.validation) == list(whole.validation)[:2]


def test_a_cap_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    jsonl(path, texts(0, COUNT))
    with path.open("a") as out:
        out.write("broken")
    assert len(list(load(train_file=[str(path)], max_train_samples=9).train)) == 9
    with pytest.raises(DataError, match="line 101"):
        list(load(train_file=[str(path)]).train)


def test_the_identity_changes_with_whatever_changes_the_texts(tmp_path: Path, file: str) -> None:
    other = jsonl(tmp_path / "other.jsonl", texts(0, COUNT))
    variants: list[dict[str, Any]] = [
        {"train_file": [file]},
        {"train_file": [other]},
        {"train_file": [file, other]},
        {"train_file": [file], "validation_file": [other]},
        {"train_file": [file], "max_train_samples": 5},
        {"train_file": [file], "split_seed": 1},
        {"train_file": [file], "validation_fraction": 0.1},
        {"train_file": [file], "document_separator": "\\n"},
        {"dataset": "sample"},
        {"dataset": "sample", "max_train_samples": 5},
    ]
    identities = {load(**options).train.identity for options in variants}
    assert len(identities) == len(variants)
    assert load(**variants[0]).train.identity == load(**variants[0]).train.identity
    assert load(**variants[0]).train.identity != load(**variants[0]).validation.identity


def test_what_is_wrong_in_any_file_is_told_before_the_first_is_read(tmp_path: Path, file: str) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("story\nOnce.\n")
    assert "no column 'text'" in refused(train_file=[file, str(wrong)])
    assert "no column 'text'" in refused(train_file=[file], validation_file=[str(wrong)])


def test_the_same_file_cannot_train_and_validate(file: str) -> None:
    assert "train.jsonl" in refused(train_file=[file], validation_file=[file])


# Names


def test_the_sample_is_what_there_is_without_options() -> None:
    corpus = load()
    assert corpus.name == "sample"
    assert len(list(corpus.train)) == sample.TRAIN_STORIES
    assert len(list(corpus.validation)) == sample.VALIDATION_STORIES


def test_the_sample_is_as_long_as_wanted() -> None:
    corpus = load(dataset="sample", max_train_samples=sample.TRAIN_STORIES + 5, max_eval_samples=3)
    expected = list(sample.stories(sample.TRAIN_STORIES + 5, sample.TRAIN_SEED))
    assert list(corpus.train) == expected
    assert len(list(corpus.validation)) == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tinystorys", "did you mean tinystories? Known are tinystories, wikitext2, sample, and owner/name"),
        ("smaple", "did you mean sample?"),
        ("zzz", "Known are tinystories"),
        ("owner/name:config:more", "unknown dataset"),
        ("texts/mine.jsonl", "--train_file"),
    ],
)
def test_an_unknown_name_is_told_with_the_known_ones(name: str, said: str) -> None:
    message = refused(dataset=name)
    assert said in message
    assert name in message


def test_settings_that_change_nothing_are_told(file: str) -> None:
    assert any("--streaming" in note for note in load(train_file=[file], streaming=True).notes)
    assert any("--text_column plot" in note for note in load(text_column="plot").notes)
    assert load(train_file=[file], text_column="text").notes == load(train_file=[file]).notes


# WikiText


LINES = [
    "",
    " = One = \n",
    "",
    " Text = text . \n",
    " = = Part = = \n",
    "",
    " = A = B = \n",
    "",
    " = = = X = = = \n",
]


def test_wikitext_articles_open_at_headings_alone_and_keep_every_byte() -> None:
    whole = [article for article in articles(LINES) if article]
    assert whole == ["".join(LINES[1:6]), "".join(LINES[6:])]


@given(st.lists(st.sampled_from([*LINES, " \n", " = 1 rad = \n"])))
def test_wikitext_articles_are_their_lines(lines: list[str]) -> None:
    assert "".join(articles(lines)) == "".join(lines)


# Options


def test_the_options_are_flags() -> None:
    (options,) = HfArgumentParser(SourceOptions).parse_args_into_dataclasses(  # type: ignore[arg-type]
        [
            "--train_file",
            "a.txt",
            "b.txt",
            "--document_separator",
            "\\n",
            "--max_train_samples",
            "3",
            "--streaming",
        ]
    )
    assert options == SourceOptions(
        train_file=["a.txt", "b.txt"], document_separator="\\n", max_train_samples=3, streaming=True
    )
    assert options.separator == "\n"
    assert "--text_column" in HfArgumentParser(SourceOptions).format_help()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "sample", "train_file": ["a.txt"]}, "--dataset sample and --train_file"),
        ({"validation_file": ["a.txt"]}, "--validation_file needs"),
        ({"max_train_samples": 0}, "--max_train_samples 0"),
        ({"max_eval_samples": -1}, "--max_eval_samples -1"),
        ({"validation_fraction": 0.0}, "--validation_fraction 0.0"),
        ({"validation_fraction": 0.51}, "--validation_fraction 0.51"),
        ({"validation_fraction": float("nan")}, "--validation_fraction nan"),
        ({"document_separator": ""}, "--document_separator is empty"),
    ],
)
def test_options_that_cannot_be_are_refused_where_they_are_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        SourceOptions(**options)
    assert said in str(caught.value)


def test_reading_is_lazy() -> None:
    corpus = load(dataset="sample", max_train_samples=10**9)
    assert len(list(islice(corpus.train, 3))) == 3
