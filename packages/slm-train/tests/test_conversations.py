"""Training on conversations and pairs: which tokens have a loss, in both flows, all modes and every packing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from slm_data import harbour_stories
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.cli import main

# Its end of a turn is the tokenizer's end-of-text token.
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|endoftext|>"
    "{% endgeneration %}{% else %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
)
Turns = list[dict[str, str]]
FLOWS = pytest.mark.parametrize("flow", ["trainer", "dynamic"])
PACKINGS = pytest.mark.parametrize("packing", ["none", "best_fit", "concat"])


@pytest.fixture(scope="module")
def chats(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with conversations, a chat template, and the tiny model without dropout."""
    folder = tmp_path_factory.mktemp("chats")
    sentences = [story.split(". ") for story in harbour_stories(16, seed=3)]
    for name, stories in (("train", sentences[:12]), ("held_out", sentences[12:])):
        rows = [json.dumps({"messages": turns_of(story[: 2 + 2 * (index % 2)])}) for index, story in enumerate(stories)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "template.jinja").write_text(TEMPLATE)
    shutil.copytree(tiny.model, folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    config |= {name: 0.0 for name in config if name.endswith("_pdrop")}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return folder


def turns_of(sentences: Sequence[str]) -> Turns:
    return [
        {"role": ("user", "assistant")[index % 2], "content": sentence[:40].strip()}
        for index, sentence in enumerate(sentences)
    ]


def command(tiny: Tiny, chats: Path, flow: str, output: Path, *more: str) -> list[str]:
    """A run of one step over everything."""
    data = ("--train_file", str(chats / "train.jsonl"), "--validation_file", str(chats / "held_out.jsonl"))
    model = ("--model_path", str(chats / "model"), "--chat_template", str(chats / "template.jinja"))
    block = () if "--block_size" in more else ("--block_size", "128")
    fixed = (*data, *model, *block, "--max_steps", "1", "--lora_dropout", "0", *more)
    if flow == "dynamic":
        return dynamic(tiny, output, "--target_tokens_per_step", "100000", *fixed)
    return tiny.flags(output, "--per_device_train_batch_size", "100", *fixed)


def marked_ids(chats: Path, name: str) -> list[tuple[list[int], list[int]]]:
    """Token ids and marks of each conversation, by transformers and the markers of the template."""
    tokenizer = AutoTokenizer.from_pretrained(chats / "model")
    rows = [json.loads(line) for line in (chats / f"{name}.jsonl").read_text().splitlines()]
    encodings = [
        tokenizer.apply_chat_template(
            row["messages"], chat_template=TEMPLATE, return_dict=True, return_assistant_tokens_mask=True
        )
        for row in rows
    ]
    return [(encoding["input_ids"], encoding["assistant_masks"]) for encoding in encodings]


def as_rows(
    documents: list[tuple[list[int], list[int]]], packing: str, block: int
) -> list[tuple[list[int], list[int]]]:
    """What attends to each other: each conversation, or blocks of one stream."""
    if packing != "concat":
        return documents
    ids = [token for document, _ in documents for token in document]
    marks = [mark for _, document in documents for mark in document]
    return [(ids[start : start + block], marks[start : start + block]) for start in range(0, len(ids), block)]


@torch.no_grad()
def mean_loss(chats: Path, rows: list[tuple[list[int], list[int]]]) -> tuple[float, int]:
    """The mean loss of the marked tokens, one row at a time in float64, and their number."""
    model = AutoModelForCausalLM.from_pretrained(chats / "model", dtype=torch.float64).eval()
    total, count = 0.0, 0
    for ids, marks in rows:
        log_probabilities = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        for position in range(1, len(ids)):
            if marks[position]:
                total -= float(log_probabilities[position - 1, ids[position]])
                count += 1
    return total / count, count


@FLOWS
@PACKINGS
def test_losses_equal_those_of_an_independent_computation(
    flow: str, packing: str, tiny: Tiny, chats: Path, tmp_path: Path
) -> None:
    assert main(command(tiny, chats, flow, tmp_path / "run", "--packing", packing)) == 0
    record = read_record(tmp_path / "run")
    loss, count = mean_loss(chats, as_rows(marked_ids(chats, "held_out"), packing, 128))
    before = record["evaluation"]["before"]
    assert before["tokens"] == count
    assert before["loss"] == pytest.approx(loss, rel=1e-5)
    loss, count = mean_loss(chats, as_rows(marked_ids(chats, "train"), packing, 128))
    assert record["data"]["train"]["predicted_tokens"] == count
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert next(step["loss"] for step in steps if "loss" in step) == pytest.approx(loss, rel=1e-5)
    assert record["speed"]["tokens"] == count


@FLOWS
def test_micro_batches_give_the_same_step_as_one_batch(flow: str, tiny: Tiny, chats: Path, tmp_path: Path) -> None:
    small = {
        "trainer": ("--per_device_train_batch_size", "3", "--gradient_accumulation_steps", "4"),
        "dynamic": ("--max_tokens_per_micro_batch", "128"),
    }[flow]
    large = ("--max_tokens_per_micro_batch", "100000") if flow == "dynamic" else ()
    for name, flags in (("small", small), ("large", large)):
        assert main(command(tiny, chats, flow, tmp_path / name, "--packing", "none", *flags)) == 0
    after = [read_record(tmp_path / name)["evaluation"]["after"]["loss"] for name in ("small", "large")]
    assert after[0] == pytest.approx(after[1], rel=1e-6)


@pytest.mark.parametrize("mode", ["baseline", "qlora", "butterfly", "butterfly_block", "oft"])
def test_every_mode_learns_the_answers(mode: str, tiny: Tiny, chats: Path, tmp_path: Path) -> None:
    flags = ("--mode", mode, "--max_steps", "6", "--learning_rate", "5e-3")
    assert main(command(tiny, chats, "trainer", tmp_path / "run", *flags)) == 0
    evaluation = read_record(tmp_path / "run")["evaluation"]
    assert evaluation["after"]["loss"] < evaluation["before"]["loss"]


def test_loss_on_all_scores_the_questions_too(tiny: Tiny, chats: Path, tmp_path: Path) -> None:
    assert main(command(tiny, chats, "trainer", tmp_path / "run", "--loss_on", "all", "--packing", "none")) == 0
    documents = marked_ids(chats, "train")
    record = read_record(tmp_path / "run")
    assert record["data"]["train"]["predicted_tokens"] == sum(len(ids) - 1 for ids, _ in documents)


def test_bits_per_byte_are_of_the_scored_text(tiny: Tiny, chats: Path, tmp_path: Path) -> None:
    assert main(command(tiny, chats, "trainer", tmp_path / "run", "--packing", "none")) == 0
    rows = [json.loads(line)["messages"] for line in (chats / "held_out.jsonl").read_text().splitlines()]
    answers = [turn["content"] + "<|endoftext|>" for row in rows for turn in row if turn["role"] == "assistant"]
    record = read_record(tmp_path / "run")
    assert record["data"]["validation"]["text_bytes"] == len("".join(answers).encode())


FORMATS: dict[str, list[dict[str, Any]]] = {
    "prompt_completion": [{"prompt": f"What is {n}?", "completion": f" It is {n}."} for n in range(8)],
    "instruction": [{"instruction": "Say it.", "input": str(n), "output": f"It is {n}."} for n in range(8)],
    "conversations": [
        {"conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": f"It is {n}."}]}
        for n in range(8)
    ],
}


@FLOWS
@pytest.mark.parametrize("name", FORMATS)
def test_pairs_instructions_and_conversations_train_with_default_flags(
    name: str, flow: str, tiny: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in FORMATS[name]))
    flags = ("--train_file", str(tmp_path / "data.jsonl"), "--validation_file", str(tmp_path / "data.jsonl"))
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps(FORMATS[name][0]))
    flags = ("--train_file", str(tmp_path / "data.jsonl"), "--validation_file", str(held_out), "--max_steps", "1")
    argv = dynamic(tiny, tmp_path / "run", *flags) if flow == "dynamic" else tiny.flags(tmp_path / "run", *flags)
    assert main(argv) == 0
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    answers = [row.get("completion", " It is {n}.").format(n=n) for n, row in enumerate(FORMATS[name])]
    expected = sum(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) + 1 for answer in answers)
    assert read_record(tmp_path / "run")["data"]["train"]["scored_tokens"] == expected


def test_long_conversations_are_cut_dropped_or_split_and_counted(
    tiny: Tiny, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = sorted(len(ids) for ids, _ in marked_ids(chats, "train"))
    block = lengths[len(lengths) // 2]
    long = sum(length > block for length in lengths)
    for choice in ("cut", "drop", "split"):
        flags = ("--block_size", str(block), "--long_rows", choice, "--packing", "none")
        assert main(command(tiny, chats, "trainer", tmp_path / choice, *flags)) == 0
        record = read_record(tmp_path / choice)["data"]["train"]
        assert record["long_documents"] == (0 if choice == "split" else long)
        assert record["rows"] == len(lengths) - (long if choice == "drop" else 0) or choice == "split"
        assert (f"{long} longer than a row (--long_rows)" in capsys.readouterr().out) == (choice != "split")


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ([{"messages": [{"role": "user", "content": "a"}]}] * 3, (), "none of the 3 examples"),
        ([{"prompt": "a", "completion": ""}] * 3, (), "has an answer to learn from"),
        ([{"prompt": "a " * 99, "completion": " b"}] * 3, ("--block_size", "16"), "no row of at most 16 tokens"),
        ([{"prompt": "a " * 99, "completion": " b"}] * 3, ("--long_rows", "drop", "--block_size", "16"), "are longer"),
        ([{"messages": [{"role": "tool", "content": "a"}]}] * 3, (), "tools are not supported"),
        ([{"text": "a"}] * 3, ("--data_format", "messages"), "no column 'messages'"),
        ([{"text": "a"}] * 3, ("--data_format", "mesages"), "did you mean messages?"),
        ([{"text": "a"}] * 3, ("--loss_on", "al"), "did you mean all?"),
        ([{"text": "a"}] * 3, ("--long_rows", "cutt"), "did you mean cut?"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(
    rows: list[dict[str, Any]], flags: tuple[str, ...], message: str, tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    for name in ("train.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows[: len(rows) - (name != "train.jsonl")]))
    files = ("--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "held_out.jsonl"))
    assert message in refused(tiny.flags(tmp_path / "run", *files, *flags))
    assert not (tmp_path / "run").exists()
