"""``slm-bench kv`` as a user has it, on the built-in base."""

import subprocess
import sys

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from slm_bench.bandwidth import weight_bytes
from slm_bench.cli import main
from slm_testing.bench.bench_runs import Done

QUICK = ["kv", "--rounds", "1", "--threads", "1", "--prompt", "Once upon a time"]


def test_a_plot_of_lengths_and_figures_that_agree_with_the_model(kv_run: Done) -> None:
    assert kv_run.code == 0
    measured = kv_run.found["results"]["measured"]
    assert [one["new_tokens"] for one in measured] == [4, 8]
    prompt = kv_run.found["settings"]["prompt_tokens"]
    for one in measured:
        assert one["same_tokens"] is True
        # keys and values, 6 layers, 256 wide, float32; the last token is never stored
        assert one["cache_bytes"] == 2 * 6 * 256 * 4 * 2 * (prompt + one["new_tokens"] - 1)
        assert one["tokens_per_second_on"] > 0 < one["tokens_per_second_off"]
        low, high = one["ratio"][1:]
        assert low <= one["ratio"][0] <= high
        assert {name: len(times["seconds"]) for name, times in one["seconds"].items()} == dict.fromkeys(
            ("on", "off", "first"), 1
        )
    assert kv_run.plot.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in kv_run.plot.with_suffix(".svg").read_text()
    assert "batch of 2" in kv_run.out
    assert "GB/s" in kv_run.out


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
