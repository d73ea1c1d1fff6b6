"""``slm-adapters merge`` writes complete, plain, compared models; and the installed command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import slm_testing.forked as forked
from slm_adapters import CLOSED_OUTPUT, four_bit_config, prepare_four_bit
from slm_adapters.cli import main
from slm_testing.adapters.tiny_adapters import MakeModel, Save, logits, refusal, with_butterfly, with_lora

MODEL = "model.safetensors"


# merge


@pytest.mark.parametrize("adapt", [with_lora, with_butterfly])
def test_merge_writes_a_plain_model_with_the_logits_of_the_adapter(
    tiny: MakeModel,
    save: Save,
    adapt: Callable[[PreTrainedModel], PeftModel],
    tmp_path: Path,
    input_ids: torch.Tensor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapted = adapt(tiny("gpt2"))
    run, out = save(adapted), tmp_path / "made" / "merged"
    assert main(["merge", str(run), str(out)]) == 0
    output = capsys.readouterr().out
    assert "greedy next token: the same at 32 of 32 positions" in output
    assert float(output.split("largest difference ")[1].split(",")[0]) < 1e-4
    plain = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert plain.dtype == torch.float32
    torch.testing.assert_close(logits(plain, input_ids), logits(adapted, input_ids), rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(out)("abc")["input_ids"] == [3, 4, 5]
    assert "adapter" not in " ".join(path.name for path in out.iterdir())
    assert [path.name for path in out.parent.iterdir()] == ["merged"]


def test_a_qlora_adapter_is_merged_into_the_dequantized_base(
    base: Path, save: Save, tmp_path: Path, input_ids: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    quantized = AutoModelForCausalLM.from_pretrained(base, quantization_config=four_bit_config(torch.float32))
    adapted = with_lora(prepare_four_bit(quantized, gradient_checkpointing=False))
    run, out = save(adapted, "qlora"), tmp_path / "out"
    assert main(["merge", str(run), str(out)]) == 0
    assert "(QLoRA)" in capsys.readouterr().out
    plain = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(logits(plain, input_ids), logits(adapted, input_ids), rtol=1e-3, atol=1e-3)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_saved_dtype_is_the_requested_one(run: Path, tmp_path: Path, dtype: str) -> None:
    assert main(["merge", str(run), str(tmp_path / "out"), "--dtype", dtype]) == 0
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert plain.dtype == getattr(torch, dtype)


def test_the_base_may_be_in_another_folder(
    base: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = base.rename(tmp_path / "moved")
    assert "does not exist" in refusal(capsys, "merge", run, tmp_path / "out")
    assert main(["merge", str(run), str(tmp_path / "out"), "--base", str(moved)]) == 0


def test_a_merged_model_with_different_logits_is_exit_code_1(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], base: Path
) -> None:
    broken = AutoModelForCausalLM.from_pretrained(base).eval()
    monkeypatch.setattr("slm_adapters.command_line.merge.reload_model", lambda *_: broken)
    assert main(["merge", str(run), str(tmp_path / "out")]) == 1
    assert "more than rounding to float32 explains (0.01); do not use" in capsys.readouterr().err


def test_the_probe_is_cut_to_the_context_and_must_have_tokens(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no tokens; give another --probe" in refusal(capsys, "merge", run, tmp_path / "out", "--probe", "")
    assert not (tmp_path / "out").exists()
    assert main(["merge", str(run), str(tmp_path / "out"), "--probe", "a" * 1000]) == 0
    assert "32 tokens" in capsys.readouterr().out


def test_overwrite_replaces_only_a_merged_model(
    base: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is accepted
    assert main(["merge", str(run), str(out)]) == 0
    before = (out / MODEL).read_bytes()
    assert "is not empty; give another folder, or --overwrite" in refusal(capsys, "merge", run, out)
    assert main(["merge", str(run), str(out), "--overwrite", "--dtype", "float16"]) == 0
    assert (out / MODEL).read_bytes() != before
    (out / "thesis.tex").write_text("years of work")
    assert "it holds thesis.tex) and is left alone" in refusal(capsys, "merge", run, out, "--overwrite")
    (out / "thesis.tex").rename(out / "run.json")
    assert "it holds run.json) and is left alone" in refusal(capsys, "merge", run, out, "--overwrite")
    assert (out / "run.json").read_text() == "years of work"
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "notes.txt").write_text("mine")
    assert "it has no config.json) and is left alone" in refusal(capsys, "merge", run, notes, "--overwrite")
    for folder in (base, run, tmp_path):
        assert "holds the base or the adapter to be merged" in refusal(capsys, "merge", run, folder, "--overwrite")
    assert "holds the base or the adapter to be merged" in refusal(
        capsys, "merge", run, base, "--overwrite", "--base", base
    )


@pytest.mark.parametrize("out_exists", [False, True])
def test_a_merge_that_cannot_be_written_leaves_out_as_it_was(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out_exists: bool
) -> None:
    out = tmp_path / "out"
    if out_exists:
        assert main(["merge", str(run), str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()} if out_exists else None

    def fail_disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slm_adapters.merging.staged_folder._sync_to_disk", fail_disk_full)
    assert "No space left on device" in refusal(capsys, "merge", run, out, "--overwrite", "--dtype", "float16")
    assert ({path.name: path.read_bytes() for path in out.iterdir()} if out.exists() else None) == before
    assert list(tmp_path.glob(".out*")) == []


def test_files_left_by_a_killed_merge_do_not_hinder_the_next(run: Path, tmp_path: Path) -> None:
    for name in (".out.writing", ".out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MODEL).write_bytes(b"half")
    assert main(["merge", str(run), str(tmp_path / "out")]) == 0
    assert list(tmp_path.glob(".out*")) == []


def test_mistakes_are_one_sentence_and_exit_code_2(
    base: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "already holds a whole model; there is no adapter to merge" in refusal(capsys, "merge", base, out)
    assert f"folder {tmp_path / 'nothing'} does not exist" in refusal(capsys, "merge", tmp_path / "nothing", out)
    assert f"{run / 'run.json'} is a file; give a folder" in refusal(capsys, "merge", run, run / "run.json")
    assert "invalid choice: 'int3'" in refusal(capsys, "merge", run, out, "--dtype", "int3")
    assert "required: OUT; see slm-adapters merge --help" in refusal(capsys, "merge", run)
    assert "required: COMMAND" in refusal(capsys)
    assert not out.exists()


# the real command


def test_the_real_command_merges_and_prints_only_its_result(run: Path, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("slm-adapters")
    done = subprocess.run([script, "merge", run, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters()


def test_a_closed_pipe_ends_the_command_quietly(base: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = forked.start("slm_adapters.cli", ["inspect", base], output=write, errors=tmp_path / "errors.txt")
    os.close(write)
    process.join(60)
    assert process.exitcode == CLOSED_OUTPUT
    assert (tmp_path / "errors.txt").read_text() == ""


def test_the_command_reports_a_mistake_in_one_sentence(tmp_path: Path) -> None:
    done = forked.run("slm_adapters.cli", ["inspect", tmp_path / "nothing"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"slm-adapters: folder {tmp_path / 'nothing'} does not exist; check the path\n"


@pytest.mark.parametrize("name", ["merge", "inspect"])
def test_help_shows_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([name, "--help"])
    assert exit_info.value.code == 0
    assert f"examples:\n  slm-adapters {name} " in capsys.readouterr().out
