"""``slm-bench kv`` as a user runs it, on the built-in base."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from slm_bench.cli import main
from slm_bench.kv.bandwidth import tensor_bytes, weight_bytes
from slm_testing.bench.command_runs import CommandRun

QUICK = ["kv", "--rounds", "1", "--threads", "1", "--prompt", "Once upon a time"]


def test_a_plot_of_lengths_and_figures_that_agree_with_the_model(kv_run: CommandRun) -> None:
    assert kv_run.exit_code == 0
    measured = kv_run.result["results"]["measured"]
    assert [length["new_tokens"] for length in measured] == [4, 8]
    settings = kv_run.result["settings"]
    prompt, itemsize = settings["prompt_tokens"], getattr(torch, settings["dtype"]).itemsize
    for length in measured:
        assert length["same_tokens"] is True
        # keys and values, 6 layers, 256 wide, two texts; the last token is never stored
        assert length["cache_bytes"] == 2 * 6 * 256 * itemsize * 2 * (prompt + length["new_tokens"] - 1)
        assert length["tokens_per_second_on"] > 0 < length["tokens_per_second_off"]
        low, high = length["ratio"][1:]
        assert low <= length["ratio"][0] <= high
        assert {name: len(times["seconds"]) for name, times in length["seconds"].items()} == dict.fromkeys(
            ("on", "off", "first"), 1
        )
    assert kv_run.plot.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in kv_run.plot.with_suffix(".svg").read_text()
    assert "batch_size 2" in kv_run.out
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
def test_numbers_that_are_not_positive_are_named(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*QUICK, *flags])
    assert exit_info.value.code == 2
    assert "is not a whole number of at least 1" in capsys.readouterr().err


def test_a_tied_head_is_read_once_and_the_embeddings_are_not_counted() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=50, n_positions=16))
    assert weight_bytes(model) == 4 * (8 * 24 + 8 * 8 + 8 * 32 + 32 * 8 + 50 * 8)
    assert weight_bytes(model.to(torch.bfloat16)) == 2 * (12 * 64 + 50 * 8)


def test_states_of_a_recurrent_model_count_as_its_cache() -> None:
    config = MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8, conv_kernel=4, expand=2)
    with torch.inference_mode():
        cache = MambaForCausalLM(config)(torch.tensor([[5, 6, 7]]), use_cache=True).cache_params
    assert tensor_bytes(cache) == 2 * 64 * (8 + 4) * 4  # layers, inner width, state and convolution, float32
    assert tensor_bytes([torch.zeros(3), [torch.zeros(2)]]) == 20
