"""Sliding-window perplexity: the recipe of transformers' documentation, and each token predicted once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slm_adapters import load
from slm_lab.evaluation.perplexity.sliding_window import windows
from slm_testing.lab.local_tasks import story_examples

TEXT = "\n\n".join(example["story"] for example in story_examples(5))


@given(st.integers(0, 60), st.integers(2, 20), st.data())
def test_each_token_but_the_first_is_predicted_once_after_its_own_context(
    length: int, max_length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, max_length))
    predicted: list[int] = []
    for context, continuation in windows(range(length), max_length, stride):
        assert [*context, *continuation] == [*range(context[0], continuation[-1] + 1)]
        assert 1 <= len(context) <= max_length
        assert len(context) + len(continuation) <= max_length + (stride == max_length)
        if predicted:
            assert len(context) >= min(continuation[0], max_length - stride)
        predicted += continuation
    assert predicted == [*range(1, length)]


@torch.no_grad()
def recipe(folder: Path, max_length: int, stride: int) -> float:
    """https://huggingface.co/docs/transformers/perplexity, in float64."""
    loaded = load(folder, dtype=torch.float64)
    input_ids = loaded.tokenizer(TEXT, return_tensors="pt", verbose=False).input_ids
    length, total, count, previous_end = input_ids.size(1), 0.0, 0, 0
    for begin in range(0, length, stride):
        end = min(begin + max_length, length)
        targets = input_ids[:, begin:end].clone()
        targets[:, : -(end - previous_end)] = -100
        loss: Any = loaded.model(input_ids[:, begin:end], labels=targets).loss
        predicted = int((targets[:, 1:] != -100).sum())
        total, count, previous_end = total + float(loss) * predicted, count + predicted, end
        if end == length:
            break
    return math.exp(total / count)


@pytest.mark.parametrize(("window", "stride"), [(128, 64), (128, 127), (50, 10)])
def test_it_is_that_of_transformers_documentation(
    window: int, stride: int, runs: list[Path], tmp_path: Path, evaluate: Callable[..., int],
    read_results: Callable[[Path], dict[str, Any]],
) -> None:  # fmt: skip
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    words = ("--perplexity", "text.txt", "--stride", stride, "--max_length", window)
    assert evaluate(runs[0], *words) == 0
    record = read_results(runs[0])["tasks"]["perplexity text.txt"]
    found = {score["metric"]: score["value"] for score in record["scores"]}
    assert found["token perplexity"] == pytest.approx(recipe(runs[0], window, stride), rel=1e-5)
    nats = math.log(found["token perplexity"]) * record["n"]
    assert found["word perplexity"] == pytest.approx(math.exp(nats / len(TEXT.split())))
    assert found["bits per byte"] == pytest.approx(nats / math.log(2) / len(TEXT.encode()))


@pytest.mark.parametrize(
    ("name", "content", "words", "message"),
    [
        ("text.txt", b"Once upon a time there was.", ["--stride", "129"], "--stride 129 exceeds the window of 128"),
        ("text.txt", b"", [], "--perplexity text.txt has no text"),
        ("text.txt", b"\xff\xfe", [], "is not UTF-8 text"),
        ("other.txt", b"", [], "cannot be read (No such file or directory); give wikitext2 or a text file"),
    ],
)
def test_texts_that_cannot_be_predicted_are_refused(
    name: str, content: bytes, words: list[str], message: str, tiny_folder: Path, tmp_path: Path,
    evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / name).write_bytes(content)
    assert evaluate(tiny_folder, "--no_base", "--perplexity", "text.txt", *words) in (1, 2)
    captured = capsys.readouterr()
    assert message in " ".join((captured.out + captured.err).split())
