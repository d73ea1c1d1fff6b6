"""``slm-bench kv`` as a user has it, on the built-in base."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from slm_bench.bandwidth import weight_bytes
from slm_bench.cli import main

QUICK = ["kv", "--rounds", "1", "--threads", "1", "--prompt", "Once upon a time"]


def test_a_plot_of_lengths_and_figures_that_agree_with_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "made" / "kv.json", tmp_path / "also" / "kv"
    asked = ["--lengths", "8,4", "--batch_size", "2", "--json", str(out), "--plot", str(plot)]
    assert main([*QUICK, *asked]) == 0
    found = json.loads(out.read_text())
    assert [one["new_tokens"] for one in found["measured"]] == [4, 8]
    prompt = found["setting"]["prompt_tokens"]
    for one in found["measured"]:
        assert one["same_tokens"] is True
        # keys and values, 6 layers, 256 wide, float32; the last token is never stored
        assert one["cache_bytes"] == 2 * 6 * 256 * 4 * 2 * (prompt + one["new_tokens"] - 1)
        assert one["tokens_per_second_on"] > 0 < one["tokens_per_second_off"]
        low, high = one["ratio"][1:]
        assert low <= one["ratio"][0] <= high
    assert (tmp_path / "also" / "kv.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "also" / "kv.svg").read_text()
    printed = capsys.readouterr().out
    assert "batch of 2" in printed
    assert "GB/s" in printed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--max_new_tokens", "600"], "600 new ones exceed the model's 512 positions; ask for at most"),
        (["--model_path", "./no/such/folder"], "no/such/folder"),
        (["--adapter_path", "./no/such/adapter"], "no/such/adapter"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, *wrong]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("slm-bench: ")
    assert message in line


@pytest.mark.parametrize("flags", [["--max_new_tokens", "0"], ["--lengths", "64,x"], ["--batch_size", "-1"]])
def test_numbers_that_make_no_sense_are_named(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*QUICK, *flags])
    assert left.value.code == 2
    assert "is no whole number of at least 1" in capsys.readouterr().err


def test_a_tied_head_is_read_once_and_the_embeddings_are_not_counted() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=50, n_positions=16))
    assert weight_bytes(model) == 4 * (8 * 24 + 8 * 8 + 8 * 32 + 32 * 8 + 50 * 8)
    assert weight_bytes(model.to(torch.bfloat16)) == 2 * (12 * 64 + 50 * 8)


def test_the_help_names_the_command_without_loading_torch() -> None:
    code = "import sys; from slm_bench.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "kv" in done.stdout
    assert done.stdout.strip().endswith("False")
