"""Runs on conversations: the template and the end of an answer that they save, their prompts, and ``--show_rows``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from slm_adapters import load
from slm_testing.data.chat_templates import FAMILIES
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.cli import main

SYSTEM = {"role": "system", "content": "Be kind."}
CHATS = [
    [{"role": "user", "content": f"What is {name}?"}, {"role": "assistant", "content": f"It is {name}."}]
    for name in ("the sea", "the moon", "a boat", "a hen", "a lamp", "a tide")
]
START, END = 0, 1  # the tokens of the tiny tokenizer


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return write(tmp_path, CHATS)


def write(folder: Path, chats: list[list[dict[str, str]]]) -> list[str]:
    """Write the last two conversations to the file for validation; return the flags of both files."""
    for name, part in (("chats", chats[:-2]), ("held_out", chats[-2:])):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in part))
    return ["--train_file", str(folder / "chats.jsonl"), "--validation_file", str(folder / "held_out.jsonl")]


def flags_of(tiny: Tiny, folder: Path, files: list[str], *more: str) -> list[str]:
    """The flags of a run of one step with default prompts."""
    flags = tiny.flags(folder, *files, "--block_size", "128", "--max_steps", "1", *more)
    position = flags.index("--prompt")
    return flags if "--prompt" in more else [*flags[:position], *flags[position + 2 :]]


def end_ids(model: Any) -> set[int]:
    ids = model.generation_config.eos_token_id
    return {ids} if isinstance(ids, int) else set(ids)


@pytest.mark.parametrize("mode", ["baseline", "lora", "butterfly"])
@pytest.mark.parametrize("resize", [False, True])
def test_template_and_end_of_turn_are_saved(
    mode: str, resize: bool, tiny: Tiny, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--mode", mode, "--chat_template", "chatml", *(["--resize_embeddings"] if resize else []))
    assert main(flags_of(tiny, tmp_path / "run", files, *more)) == 0
    output = capsys.readouterr().out
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1"):
        loaded = load(folder, device="cpu")
        added = loaded.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
        assert (added == [400, 401]) is resize
        assert end_ids(loaded.model) == ({END, 401} if resize else {END})
        ids: Any = loaded.tokenizer.apply_chat_template(CHATS[0][:1], add_generation_prompt=True)["input_ids"]
        text = "<|startoftext|><|im_start|>user\nWhat is the sea?<|im_end|>\n<|im_start|>assistant\n"
        assert loaded.tokenizer.decode(ids) == text
        assert ids[0] == START
    assert "<|im_start|> and <|im_end|>: " + ("added to" if resize else "not in") in output
    assert ("--stop '<|im_end|>'" in output) is not resize


@pytest.mark.parametrize("flow", ["trainer", "dynamic"])
def test_the_plain_format_is_the_default(flow: str, tiny: Tiny, files: list[str], tmp_path: Path) -> None:
    flags = [*files, "--block_size", "128", "--max_steps", "1"]
    argv = dynamic(tiny, tmp_path / "run", *flags) if flow == "dynamic" else tiny.flags(tmp_path / "run", *flags)
    assert main(argv) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    ids: Any = tokenizer.apply_chat_template(CHATS[0][:1], add_generation_prompt=True)["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(tiny.model)("User: What is the sea?\n\nAssistant:")["input_ids"]
    assert read_record(tmp_path / "run")["chat"]["template"] == "plain"


def test_a_model_from_scratch_has_the_tokens_of_the_template(tiny: Tiny, files: list[str], tmp_path: Path) -> None:
    more = (
        "--from_scratch",
        str(tiny.model / "config.json"),
        "--tokenizer_path",
        str(tiny.model),
        "--mode",
        "baseline",
    )
    argv = flags_of(tiny, tmp_path / "run", files, *more, "--chat_template", "chatml", "--resize_embeddings")
    position = argv.index("--model_path")
    assert main([*argv[:position], *argv[position + 2 :]]) == 0
    loaded = load(tmp_path / "run", device="cpu")
    assert end_ids(loaded.model) == {END, 401}
    assert loaded.model.config.vocab_size == 402


def test_a_run_on_texts_has_no_template_and_leaves_none_of_an_earlier_run(
    tiny: Tiny, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(flags_of(tiny, folder, files, "--mode", "lora", "--chat_template", "chatml")) == 0
    assert (folder / "chat_template.jinja").is_file()
    capsys.readouterr()
    flags = ("--mode", "lora", "--max_steps", "1", "--overwrite_output_dir", "--chat_template", "chatml")
    assert main(tiny.flags(folder, *flags)) == 0
    assert "--chat_template chatml has no effect" in capsys.readouterr().out
    assert not (folder / "chat_template.jinja").exists()
    assert not (folder / "generation_config.json").exists()
    assert AutoTokenizer.from_pretrained(folder).chat_template is None


def test_a_file_that_is_no_template_is_refused(tiny: Tiny, files: list[str], tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "t.jinja").write_text("{% for m in messages %}")
    message = refused(flags_of(tiny, tmp_path / "run", files, "--chat_template", str(tmp_path / "t.jinja")))
    assert "has an error in line 1" in message
    assert not (tmp_path / "run").exists()


def test_questions_of_held_out_conversations_are_asked(
    tiny: Tiny, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags_of(tiny, tmp_path / "run", files)) == 0
    samples = read_record(tmp_path / "run")["samples"]["after"]
    assert [sample["prompt"] for sample in samples] == ["What is a lamp?", "What is a tide?"]
    assert all(sample["text"].startswith(f"{sample['prompt']}\n\n") for sample in samples)
    assert "User:" not in samples[0]["text"]
    output = capsys.readouterr().out
    assert f"slm-paged --model_path {tmp_path / 'run'} --chat --prompt 'What is a lamp?'" in output


def test_the_system_message_precedes_the_samples(tiny: Tiny, tmp_path: Path) -> None:
    held_out = [[SYSTEM, *CHATS[4]], CHATS[5]]
    files = write(tmp_path, [*CHATS[:4], *held_out])
    assert main(flags_of(tiny, tmp_path / "run", files)) == 0
    # The other conversation has no system message, so its question would be asked differently.
    assert read_record(tmp_path / "run")["arguments"]["prompt"] == ["What is a lamp?"]


def test_prompts_of_pairs_are_whole(tiny: Tiny, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} and {n} is the same as", "completion": f" two times {n}."} for n in ("one", "two", "ten")]
    for name in ("chats", "held_out"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = ["--train_file", str(tmp_path / "chats.jsonl"), "--validation_file", str(tmp_path / "held_out.jsonl")]
    (tmp_path / "held_out.jsonl").write_text("\n".join(json.dumps(row) for row in rows[:2]))
    assert main(flags_of(tiny, tmp_path / "run", files)) == 0
    record = read_record(tmp_path / "run")
    assert record["arguments"]["prompt"] == [row["prompt"] for row in rows[:2]]
    assert "chat" not in record


def shown_rows(output: str) -> list[str]:
    """Return the text of each row that ``--show_rows`` printed."""
    return [part.partition("\n")[2].strip("\n") for part in re.split(r"^row .*?: ", output, flags=re.MULTILINE)[1:]]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("resize", [False, True])
def test_rows_are_shown_with_their_scored_tokens(
    name: str, resize: bool, tiny: Tiny, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family = FAMILIES[name]
    (tmp_path / "chat.jinja").write_text(family.source)
    more = ["--chat_template", str(tmp_path / "chat.jinja"), "--packing", "none", "--show_rows", "2"]
    assert main(flags_of(tiny, tmp_path / "run", files, *more, *(["--resize_embeddings"] if resize else []))) == 0
    rows = shown_rows(capsys.readouterr().out)
    assert len(rows) == 2
    for row in rows:
        (scored,) = re.findall(r"\[\[(.*?)\]\]", row, flags=re.DOTALL)
        # Thinking models are prompted before their reasoning, so they write an empty one.
        assert scored.strip().removeprefix("<think>\n\n</think>\n\n").startswith("It is ")
        assert "What is " not in scored
        end = "<|endoftext|>" if family.end == "eos_token" else family.end or ""
        if resize or family.end == "eos_token":
            assert scored.rstrip().endswith(end or "<|endoftext|>")
        else:  # spelled out, and ended by the end-of-text token
            assert scored.endswith("<|endoftext|>")
            assert end in scored
    assert not (tmp_path / "run").exists()


def test_documents_of_a_packed_row_are_shown_one_by_one(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny.flags(tmp_path / "run", "--show_rows", "3", "--block_size", "128")) == 0
    output = capsys.readouterr().out
    rows = shown_rows(output)
    documents = [part for row in rows for part in re.split(r"-- document .*\n", row) if part.strip()]
    texts = tiny.texts.read_text().split("\n\n\n")
    for document in documents:
        text = re.sub(r"\[\[|\]\]|<\|startoftext\|>|<\|endoftext\|>", "", document).strip("\n")
        assert any(text.strip() in whole for whole in texts), text
        assert document.count("[[") == document.count("]]") == 1
    counts = re.findall(r"([\d,]+) tokens, ([\d,]+) scored", output)
    assert all(int(tokens) > int(scored) for tokens, scored in counts)


def test_a_negative_number_of_rows_is_refused(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    assert "--show_rows -1 must not be below 0" in refused(tiny.flags(tmp_path / "run", "--show_rows=-1"))


def test_showing_rows_leaves_a_finished_run_alone(tiny: Tiny, files: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert main(flags_of(tiny, folder, files)) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(flags_of(tiny, folder, files, "--show_rows", "1")) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
