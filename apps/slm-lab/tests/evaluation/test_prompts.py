"""``slm-lab eval --prompts``: answers of all models side by side, exact match and F1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slm_adapters import load
from slm_lab.evaluation.answer_metrics import exact_match, f1, normalise
from slm_lab.evaluation.chats import PromptEncoder
from slm_lab.evaluation.prompt_file import Prompt

LINES = [
    {"prompt": "Once upon a time", "expected": "there was"},
    {"messages": [{"role": "user", "content": "A <|endoftext|> & <b>bold</b> question"}], "expected": ["a", "b"]},
    {"prompt": "No answer is known"},
]
CHATML = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_lines(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def test_answers_are_the_models_greedy_texts_on_a_page_and_as_json(
    runs: list[Path], tmp_path: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines(tmp_path / "questions.jsonl", LINES)
    assert evaluate(*runs, "--prompts", file, "--max_new_tokens", 8) == 0
    assert "answers side by side: outputs/eval/questions.html" in capsys.readouterr().out
    content = json.loads(Path("outputs/eval/questions.json").read_text())
    names = [*content["answers"][0]["answers"]]
    assert names[1:] == ["lora", "butterfly"]
    loaded = load(runs[1], dtype=torch.float32)
    ids = loaded.tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    model: Any = loaded.model
    text = loaded.tokenizer.decode(model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :])
    assert content["answers"][0]["answers"]["butterfly"] == text.strip()
    page = Path("outputs/eval/questions.html").read_text()
    assert "&lt;b&gt;bold&lt;/b&gt; question" in page
    assert page.count("<article>") == 9
    assert page.count("Expected: ") == 2


def test_answers_of_an_earlier_command_are_on_the_page(
    runs: list[Path], tmp_path: Path, evaluate: Callable[..., int]
) -> None:
    file = write_lines(tmp_path / "questions.jsonl", LINES)
    evaluate(runs[0], "--no_base", "--prompts", file, "--max_new_tokens", 4)
    first = json.loads(Path("outputs/eval/questions.json").read_text())["answers"][0]["answers"]["lora"]
    evaluate(*runs, "--no_base", "--prompts", file, "--max_new_tokens", 4)
    answers = json.loads(Path("outputs/eval/questions.json").read_text())["answers"][0]["answers"]
    assert answers.keys() == {"lora", "butterfly"}
    assert answers["lora"] == first


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "score"),
    [
        ("The Cat!", ["a cat"], 1.0, 1.0),
        ("the cat sat", ["cat", "a dog"], 0.0, 2 / 3),
        ("", ["cat"], 0.0, 0.0),
        ("the", ["an"], 1.0, 1.0),  # nothing is left of both
        ("cat cat dog", ["cat dog dog"], 0.0, 2 / 3),
    ],
)
def test_answers_are_compared_as_squad_does(answer: str, expected: list[str], exact: float, score: float) -> None:
    assert exact_match(answer, expected) == exact
    assert f1(answer, expected) == pytest.approx(score)


def test_normalisation_keeps_words_that_contain_articles() -> None:
    assert normalise("An  athlete's theatre, a-z.") == "athletes theatre az"


def test_special_tokens_in_messages_are_plain_text_and_templates_that_lose_messages_are_refused(
    tiny_folder: Path,
) -> None:
    tokenizer = load(tiny_folder).tokenizer
    tokenizer.chat_template = CHATML
    messages = (("user", "end <|endoftext|> here"),)
    encoded = PromptEncoder(tokenizer).encode(Prompt(None, messages))
    assert tokenizer.eos_token_id not in encoded.ids
    assert tokenizer.decode(encoded.ids) == "<user>end <|endoftext|> here</s><assistant>"
    assert encoded.stop == ("</s>",)
    tokenizer.chat_template = CHATML.replace("in messages", "in messages[1:]")
    with pytest.raises(ValueError, match="leaves out a message of the role 'user'"):
        PromptEncoder(tokenizer).encode(Prompt(None, messages))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ('{"expected": "a"}', "line 1 must be an object with either 'prompt' or 'messages'"),
        ('{"prompt": "a", "messages": []}', "either 'prompt' or 'messages'"),
        ('{"prompt": "a", "answer": "b"}', "has the key 'answer'; the keys are prompt, messages, expected"),
        ('{"prompt": 3}', "'prompt' must be a text"),
        ('{"messages": [{"role": "user"}]}', "'messages' must be a list of objects"),
        ('{"prompt": "a", "expected": [3]}', "'expected' must be a text or a list of texts"),
        ("", "has no prompts"),
    ],
)
def test_a_line_that_is_no_prompt_is_refused(
    line: str, message: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "bad.jsonl").write_text(line)
    assert message in refused("eval", "sample", "--prompts", tmp_path / "bad.jsonl")


def test_a_prompt_that_does_not_fit_is_reported(
    tiny_folder: Path, tmp_path: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines(tmp_path / "long.jsonl", [{"prompt": "word " * 200}])
    assert evaluate(tiny_folder, "--prompts", file) == 1
    assert "exceeds the context of 128 tokens; shorten it" in " ".join(capsys.readouterr().out.split())
