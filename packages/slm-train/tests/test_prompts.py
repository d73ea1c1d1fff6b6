"""Prompts of a run: several texts, defaults from held-out documents, refusals before training, resumed runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from slm_data import Corpus, Documents, tokenize
from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.cli import main
from slm_train.command_line.parsing import parse_arguments
from slm_train.data.prompts import STORY_PROMPTS, choose_prompts
from slm_train.data.rows import Tokens
from slm_train.errors import TrainError
from slm_train.model.base_model import BaseModel, find_base_model


@pytest.fixture
def base(tiny: Tiny) -> BaseModel:
    texts = Documents("none", "none", lambda: iter(()))
    return find_base_model(parse_arguments(["--model_path", str(tiny.model)]).model, str(tiny.model), texts)


def prompts_of(
    tiny: Tiny,
    base: BaseModel,
    texts: list[str],
    *flags: str,
    block_size: int = 64,
    record: dict[str, Any] | None = None,
    printed: list[str] | None = None,
) -> list[str]:
    """Return the prompts of a run whose held-out documents are ``texts``."""
    documents = Documents("texts", json.dumps(texts), lambda: iter(texts))
    store = tokenize(documents, base.tokenizer, cache_dir=tiny.cache)
    arguments = parse_arguments([*(flags or ("--train_file", str(tiny.texts))), "--threads", "1"])
    lines = [] if printed is None else printed
    corpus = Corpus("texts", documents, documents)
    tokens = Tokens(store, store, block_size)
    return choose_prompts(arguments, base, corpus, tokens, record, lines.append).run.prompt or []


@pytest.mark.parametrize(
    ("words", "prompts"),
    [
        (["--prompt", "A red fox", "- no, he said"], ["A red fox", "- no, he said"]),
        (["--prompt=A red fox"], ["A red fox"]),
        (["--prompt", ""], [""]),
        ([], None),
    ],
)
def test_the_flag_takes_several_texts(words: list[str], prompts: list[str] | None) -> None:
    assert parse_arguments(words).run.prompt == prompts


@pytest.mark.parametrize(
    ("line", "prompts"),
    [("prompt: A red fox", ["A red fox"]), ("prompt: [A red fox, One]", ["A red fox", "One"]), ("prompt: ''", [""])],
)
def test_a_file_of_flags_has_one_prompt_or_a_list(tmp_path: Path, line: str, prompts: list[str]) -> None:
    (tmp_path / "run.yaml").write_text(line)
    assert parse_arguments(["--config", str(tmp_path / "run.yaml")]).run.prompt == prompts


def test_unquoted_words_are_pointed_out(tiny: Tiny, base: BaseModel) -> None:
    lines: list[str] = []
    words = ["Once", "upon", "a", "time"]
    assert prompts_of(tiny, base, ["a b c d"], "--prompt", *words, printed=lines) == words
    assert "write one text of several words in quotes" in lines[0]


def test_the_built_in_corpus_has_openings_of_stories(tiny: Tiny, base: BaseModel) -> None:
    assert prompts_of(tiny, base, ["a b"], "--max_train_samples", "3") == list(STORY_PROMPTS)


def test_other_texts_begin_as_the_first_and_the_middle_held_out_document(tiny: Tiny, base: BaseModel) -> None:
    texts = [f"The {name} went  out\nto see the sea and {'came back again ' * 20}." for name in "abcdef"]
    assert prompts_of(tiny, base, texts) == ["The a went out", "The d went out"]
    assert prompts_of(tiny, base, texts) == prompts_of(tiny, base, list(texts))
    long_lines = [text.replace("\n", " ") for text in texts]
    assert prompts_of(tiny, base, long_lines) == ["The a went out to see", "The d went out to see"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["red fox and hen"], ["red fox"]),  # half of the document at most
        (["a", "b", "the red fox ran", "c", "d"], ["the red"]),  # documents without an opening are skipped
        (["the red fox ran"] * 5, ["the red"]),  # a second prompt must differ
        (["a", "b"], []),
    ],
    ids=["short", "too-short", "equal", "none"],
)
def test_a_prompt_is_never_a_whole_document(tiny: Tiny, base: BaseModel, texts: list[str], expected: list[str]) -> None:
    assert prompts_of(tiny, base, texts) == expected


@pytest.mark.parametrize("text", ["昔々あるところにおじいさんとおばあさんがいました。" * 9, "x" * 900])
def test_texts_without_spaces_begin_with_a_few_tokens(tiny: Tiny, base: BaseModel, text: str) -> None:
    (prompt,) = prompts_of(tiny, base, [text])
    assert text.startswith(prompt)
    assert 0 < len(base.tokenizer(prompt)["input_ids"]) <= 8
    assert "\ufffd" not in prompt


@pytest.mark.parametrize("block_size", [2, 4, 8, 16])
def test_a_prompt_takes_half_of_a_short_block_at_most(tiny: Tiny, base: BaseModel, block_size: int) -> None:
    texts = [f"The {name} went out to see the sea, and came back again." for name in ("fox", "hen")]
    for flags in ((), ("--max_train_samples", "3")):
        for prompt in prompts_of(tiny, base, texts, *flags, block_size=block_size):
            assert 0 < len(base.tokenizer(prompt)["input_ids"]) <= block_size // 2


def test_an_empty_prompt_is_none(tiny: Tiny, base: BaseModel) -> None:
    assert prompts_of(tiny, base, ["a b c d"], "--prompt", "") == []


def test_a_prompt_without_tokens_is_refused(tiny: Tiny, base: BaseModel) -> None:
    tokenizer, tokens = cast(Any, Letters()), cast(Any, None)
    without = replace(base, tokenizer=tokenizer)
    with pytest.raises(TrainError, match=r"--prompt '\?\?' has no tokens .* give another text"):
        choose_prompts(parse_arguments(["--prompt", "??"]), without, cast(Any, None), tokens, None, print)


class Letters:
    """A tokenizer that drops what is not a letter and adds a token at the start."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1] * add_special_tokens + [ord(letter) for letter in text if letter.isalpha()]}


def test_a_prompt_longer_than_the_context_is_refused_before_training(
    tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    message = refused(tiny.flags(tmp_path / "run", "--prompt", "fine", "a tide " * 200))
    assert "leave no room for a continuation; give a shorter text" in message
    assert not (tmp_path / "run").exists()


OLD = {"samples": {"before": "Once more"}, "arguments": {"prompt": "Once"}}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (OLD, ["Once"]),
        ({"samples": {}, "arguments": {"prompt": "Once"}}, ["Once"]),
        ({"samples": {}, "arguments": {"prompt": ""}}, []),
        ({"samples": {}, "arguments": {"prompt": ["a tide", "the sea"]}}, ["a tide", "the sea"]),
        ({"samples": {"before": [{"prompt": "a", "text": "a b"}]}, "arguments": {"prompt": ["a"]}}, ["a"]),
    ],
    ids=["an-older-run", "older-before-its-evaluation", "older-without", "before-its-evaluation", "evaluated"],
)
def test_a_resumed_run_keeps_its_prompts(
    tiny: Tiny, base: BaseModel, record: dict[str, Any], expected: list[str]
) -> None:
    lines: list[str] = []
    assert prompts_of(tiny, base, ["a b c d"], "--prompt", "other", record=record, printed=lines) == expected
    assert lines == ["--prompt has no effect on a resumed run: it keeps the prompts that it was started with"]
    assert prompts_of(tiny, base, ["a b c d"], record=record) == expected


def test_a_run_of_an_earlier_version_is_resumed(tiny: Tiny, tmp_path: Path) -> None:
    flags = tiny.flags(tmp_path / "run", "--prompt", "a tide", "the sea", "--save_steps", "2")
    assert main(flags) == 0
    file = tmp_path / "run" / "run.json"
    record = read_record(tmp_path / "run")
    assert [sample["prompt"] for sample in record["samples"]["before"]] == ["a tide", "the sea"]
    assert all(sample["text"].startswith(sample["prompt"]) for sample in record["samples"]["after"])
    record["samples"] = {"before": "a tide rose", "after": "a tide fell"}
    record["arguments"]["prompt"] = "a tide"
    file.write_text(json.dumps(record))
    assert main([*flags, "--resume_from_checkpoint", str(tmp_path / "run" / "checkpoint-2")]) == 0
    samples = read_record(tmp_path / "run")["samples"]
    assert samples["before"] == [{"prompt": "a tide", "text": "a tide rose"}]
    assert [sample["prompt"] for sample in samples["after"]] == ["a tide"]
