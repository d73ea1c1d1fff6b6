"""The README.md of run folders: valid, without the machine's paths, with code that works; the user's own is kept."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from slm_adapters import load
from slm_testing.model_cards import PEFT_HEADING, code_blocks, read_card, run_python_blocks
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Tiny, read_record
from slm_train.cli import main

LIBRARIES = {"baseline": "transformers"}  # peft for the others

(_PROGRAM,) = entry_points(group="console_scripts", name="slm-adapters")
adapters_main = _PROGRAM.load()


@pytest.mark.parametrize("mode", ["baseline", "lora", "qlora", "butterfly", "butterfly_block"])
def test_every_mode_leaves_a_valid_card_whose_code_works(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    run = tmp_path / "run"
    assert main(tiny.flags(run, "--mode", mode, "--prompt", 'a "tide"', "--save_steps", "2")) == 0
    card, record = read_card(run), read_record(run)
    assert card.data.to_dict() == {
        "library_name": LIBRARIES.get(mode, "peft"),
        "pipeline_tag": "text-generation",
        "tags": list(
            dict.fromkeys(["slm", mode, *{"qlora": ["lora"], "butterfly_block": ["butterfly"]}.get(mode, [])])
        ),
    }
    assert str(tmp_path) not in card.content
    assert str(tiny.model.parent) not in card.content
    for when in ("before", "after"):
        assert f"{record['evaluation'][when]['perplexity']:,.2f}" in card.text
    assert list(run.rglob("README.md")) == [run / "README.md"]  # none of PEFT's in the checkpoints
    monkeypatch.chdir(run)
    expected = load(run, four_bit=False)
    ids = expected.tokenizer('a "tide"', return_tensors="pt").input_ids
    for variables in run_python_blocks(run, tiny.model):
        if mode != "qlora":  # the block for slm-adapters has a base in 4 bits
            torch.testing.assert_close(variables["model"](ids).logits, expected.model(ids).logits)
    if mode != "baseline":
        _check_merge_command(run, tiny)


@pytest.mark.parametrize("mode", ["baseline", "lora"])
def test_the_code_of_a_card_asks_a_model_that_was_trained_on_conversations(
    mode: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A hen."}]
    for name, count in (("chats", 4), ("held_out", 1)):
        rows = [
            json.dumps({"messages": [{**chat[0], "content": f"Who {n}?"}, chat[1]]}) for n in range(9, 9 - count, -1)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    files = ("--train_file", str(tmp_path / "chats.jsonl"), "--validation_file", str(tmp_path / "held_out.jsonl"))
    more = ("--mode", mode, "--prompt", "Who?", "--chat_template", "chatml", "--resize_embeddings", "--max_steps", "1")
    assert main(tiny.flags(tmp_path / "run", *files, *more)) == 0
    assert "Before training, answering *Who?*" in read_card(tmp_path / "run").text
    if mode == "lora":
        assert adapters_main(["merge", str(tmp_path / "run"), str(tmp_path / "merged")]) == 0
    for folder in ("run", *(["merged"] if mode == "lora" else [])):
        monkeypatch.chdir(tmp_path / folder)
        capsys.readouterr()
        blocks = run_python_blocks(tmp_path / folder, tiny.model)
        prompt = "<|startoftext|><|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
        assert capsys.readouterr().out.count(prompt) == len(blocks) > 0
        assert all("eos_token_id=[1, 401]" in code for code in code_blocks(tmp_path / folder, "python"))


def _check_merge_command(run: Path, tiny: Tiny) -> None:
    """Run the command for merging, and check the card of the merged model and its code."""
    (command,) = [line for line in code_blocks(run, "bash") if "merge" in line]
    assert adapters_main(shlex.split(command.replace(f"path/to/{tiny.model.name}", str(tiny.model)))[1:]) == 0
    merged = run.parent / "merged"
    assert AutoModelForCausalLM.from_pretrained(merged).num_parameters()
    card = read_card(merged)
    assert card.data.library_name == "transformers"
    assert card.data.tags[-1] == "merged"
    assert "before it was merged" in card.text
    assert str(run.parent) not in card.content


def test_the_token_budget_loop_leaves_a_card(tiny: Tiny, tmp_path: Path) -> None:
    assert main(dynamic(tiny, tmp_path / "run", "--max_steps", "2")) == 0
    assert read_card(tmp_path / "run").data.tags == ["slm", "lora"]
    assert "## Samples" not in read_card(tmp_path / "run").text  # this run has no prompts


def test_ids_of_the_hub_are_recorded_for_the_card(tiny: Tiny, tmp_path: Path) -> None:
    assert main(tiny.flags(tmp_path / "run", "--mode", "lora")) == 0
    assert read_record(tmp_path / "run")["hub"] == {"base": None, "dataset": None}  # the base and the texts are files


def test_a_readme_of_the_user_survives_runs_and_merges(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, merged = tmp_path / "run", tmp_path / "merged"
    run.mkdir()
    (run / "README.md").write_text("# Mine\n")
    assert main(tiny.flags(run)) == 0
    assert "README.md is your own and was left as it is" in capsys.readouterr().out
    assert main(tiny.flags(run, "--overwrite_output_dir")) == 0
    assert (run / "README.md").read_text() == "# Mine\n"
    assert adapters_main(["merge", str(run), str(merged)]) == 0
    assert read_card(merged).data.tags[-1] == "merged"
    (merged / "README.md").write_text("# Mine too\n")
    capsys.readouterr()
    assert adapters_main(["merge", str(run), str(merged), "--overwrite"]) == 0
    assert (merged / "README.md").read_text() == "# Mine too\n"
    assert "README.md is your own and was left as it is" in capsys.readouterr().out


def test_a_card_of_an_earlier_run_or_of_peft_is_replaced(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "README.md").write_text(f"---\nlibrary_name: peft\n---\n{PEFT_HEADING}\n[More Information Needed]\n")
    assert main(tiny.flags(run, "--mode", "lora")) == 0
    assert main(tiny.flags(run, "--mode", "baseline", "--overwrite_output_dir")) == 0
    card = read_card(run)
    assert PEFT_HEADING not in card.text
    assert card.data.tags == ["slm", "baseline"]


def test_the_card_of_a_stopped_run_is_written_when_it_is_finished(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = tiny.flags(run, "--save_steps", "2")
    assert main(flags) == 0
    (run / "README.md").unlink()  # as if killed before the final files were written
    (run / "run.json").write_text(json.dumps(read_record(run) | {"status": "running"}))
    assert main([*flags, "--resume_from_checkpoint"]) == 0
    assert read_card(run).data.library_name == "peft"
