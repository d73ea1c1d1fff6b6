"""``slm-bench kv --engine``: small runs on the built-in base, with a stand-in for vLLM."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from slm_bench.cli import main
from slm_bench.errors import BenchError
from slm_bench.harness.arguments import Command
from slm_bench.harness.presenter import present
from slm_bench.kv.arguments import add_kv
from slm_bench.kv.engine import attention, benchmark, prefix
from slm_bench.kv.engine.contenders import Contender, ContinuousBatching, Generate, SlmEngine
from slm_bench.kv.engine.vllm_process import Vllm
from slm_bench.kv.engine.workload import Sizes, Tokens, Workload, mixed_workload, uniform_workload
from slm_kv import load

SMALL = Sizes(mixed=4, mixed_prompt=(8, 40), mixed_new=(3, 12), batch=2, prompt=9, new=6, attention=((1, 20), (3, 33)))

# What the worker uses of vLLM. Prompts are continued by the numbers after their last token.
STAND_IN = """
import os, sys
__version__ = "0.0"
class SamplingParams:
    def __init__(self, temperature, max_tokens, ignore_eos, detokenize):
        assert temperature == 0 and ignore_eos and not detokenize
        self.new = max_tokens
class Output:
    def __init__(self, tokens): self.token_ids, self.outputs = tokens, [self]
class LLM:
    def __init__(self, model, dtype, max_model_len, max_num_seqs, **more):
        print("vLLM logs", model)
        if max_num_seqs == 99: raise ValueError("no memory for 99")
        assert os.environ["OMP_NUM_THREADS"] == "1"
    def generate(self, prompts, sampling, use_tqdm):
        if len(prompts) == 13: sys.exit("killed")
        return [Output(range(prompt["prompt_token_ids"][-1] + 1, prompt["prompt_token_ids"][-1] + 1 + params.new))
                for prompt, params in zip(prompts, sampling, strict=True)]
"""


@pytest.fixture(scope="module")
def loaded() -> Any:
    return load("sample", dtype=torch.float32, device="cpu")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An interpreter whose vLLM is the stand-in."""
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in" / "vllm.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand_in"))
    return sys.executable


def tokenizer(loaded: Any) -> Any:
    return lambda text: list(loaded.tokenizer(text)["input_ids"])


def contenders(model: Any) -> Iterator[Contender]:
    yield Generate(model, 1)
    yield SlmEngine(model, max_sequences=3, pages=12)
    yield Generate(model, 3)
    yield ContinuousBatching(model, 256)


def test_every_contender_gives_each_request_the_tokens_of_generate_one_by_one(loaded: Any) -> None:
    work = mixed_workload(tokenizer(loaded), SMALL)
    expected: list[Tokens] = []
    for contender in contenders(loaded.model):
        with closing(contender):
            answers = contender.answer(work)
            assert [len(tokens) for tokens in answers] == list(work.new)
            expected = expected or answers
            assert answers == expected, contender.name
            assert contender.answer(work) == expected, f"{contender.name}, the second time"


def test_a_run_reports_plots_and_keeps_every_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stand_in: str
) -> None:
    out, plot = tmp_path / "results" / "run.json", tmp_path / "plots" / "run"
    flags = [
        "--dtype",
        "float32",
        "--threads",
        "1",
        "--rounds",
        "2",
        "--json",
        str(out),
        "--plot",
        str(plot),
        "--vllm_python",
        stand_in,
    ]
    arguments = parse(*flags)
    assert present(benchmark.measure(arguments, SMALL), arguments.json, arguments.plot) == 0
    results = json.loads(out.read_text())["results"]
    assert [work["name"] for work in results["workloads"]] == ["4 mixed", "alone", "batch of 2"]
    for work in results["workloads"]:
        names = [way["way"] for way in work["ways"]]
        assert names[0] == "slm-kv engine"
        assert names[-1] == "vLLM 0.0"
        for way in work["ways"]:
            assert len(way["seconds"]) == 2
            assert way["tokens_per_second"] > 0
            assert way["same"] == (0 if way["way"] == "vLLM 0.0" else work["requests"]), way["way"]
            assert way["ratio"][1] <= way["ratio"][0] <= way["ratio"][2]
        assert work["ways"][0]["ratio"] == [1, 1, 1]
    assert len(results["prefix"]["known"]["seconds"]) == len(results["prefix"]["unknown"]["seconds"]) == 2
    assert all(len(size[side]["seconds"]) == 9 for size in results["attention"] for side in ("paged", "contiguous"))
    assert plot.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in plot.with_suffix(".svg").read_text()
    printed = capsys.readouterr().out
    assert f"plot: {plot}.png, {plot}.svg" in printed
    assert "as generate has it" in printed


def test_lengths_of_mixed_requests_lie_in_their_ranges_and_are_the_same_each_time() -> None:
    numbers = count()  # makes each text different, so that no two prompts share a beginning
    works = [mixed_workload(lambda text: [next(numbers), *map(len, text.split())], Sizes()) for _ in range(2)]
    first, second = works
    assert [len(prompt) for prompt in first.prompts] == [len(prompt) for prompt in second.prompts]
    assert first.new == second.new
    assert first.prompts[0][1:] == second.prompts[0][1:]
    assert len(first.prompts) == len(first.new) == 32
    assert all(8 <= len(prompt) <= 128 for prompt in first.prompts)
    assert all(16 <= new <= 128 for new in first.new)
    assert first.useful_tokens == sum(first.new)
    assert first.longest == max(len(prompt) + new for prompt, new in zip(first.prompts, first.new, strict=True))
    alone = uniform_workload(lambda text: list(range(500)), 1, Sizes())
    assert (alone.name, len(alone.prompts[0]), alone.new) == ("alone", 32, (128,))


def test_a_known_prefix_is_reused_whole_and_changes_no_token(loaded: Any) -> None:
    measured = prefix.measure(loaded.model, tokenizer(loaded), 1)
    assert (measured.prompt_tokens, measured.known_tokens) == (480, 448)  # of 512 positions
    assert measured.same_tokens
    assert len(measured.known.seconds) == len(measured.unknown.seconds) == 1


def test_attention_over_scattered_pages_equals_that_over_contiguous_keys(loaded: Any) -> None:
    for measured in attention.measure(loaded.model, SMALL.attention):
        assert measured.difference < 1e-5
        assert measured.paged.median > 0 < measured.contiguous.median


def test_vllm_answers_one_line_per_workload_and_ends_when_closed(stand_in: str, tmp_path: Path) -> None:
    with closing(Vllm(stand_in, tmp_path, "float32", threads=1, max_tokens=64, sequences=4)) as contender:
        assert contender.name == "vLLM 0.0"
        assert contender.answer(Workload("two", ([5, 6], [1]), (3, 2))) == [[7, 8, 9], [2, 3]]
        assert contender.answer(Workload("one", ([3],), (1,))) == [[4]]
        assert contender._process.poll() is None
    assert contender._process.returncode == 0
    assert "vLLM logs" in (tmp_path / "vllm.log").read_text()


def test_a_vllm_that_does_not_start_says_why(stand_in: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"^vLLM ended: ValueError: no memory for 99$"):
        Vllm(stand_in, tmp_path, "float32", threads=1, max_tokens=64, sequences=99)


def test_a_vllm_that_ends_between_two_answers_says_why(stand_in: str, tmp_path: Path) -> None:
    with closing(Vllm(stand_in, tmp_path, "float32", threads=1, max_tokens=64, sequences=4)) as contender:
        for _ in range(2):  # while it answers, and when it has been gone for a while
            with pytest.raises(BenchError, match=r"^vLLM ended: killed$"):
                contender.answer(Workload("unlucky", ([1],) * 13, (1,) * 13))
            contender._process.wait(10)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "--lengths", "4"], "--lengths does not go with --engine"),
        (["--engine", "--packed"], "--packed does not go with --engine"),
        (["--vllm_python", sys.executable], "--vllm_python goes with --engine"),
        (["--plot", "somewhere"], "--plot goes with --lengths or --engine"),
        (["--engine", "--vllm_python", "no/such/python"], "no/such/python: there is no such interpreter"),
    ],
)
def test_flags_that_do_not_go_together_are_one_sentence_and_exit_code_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kv", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("slm-bench: ")
    assert message in line


def parse(*flags: str) -> argparse.Namespace:
    parser = Command()
    add_kv(parser.add_subparsers())
    return parser.parse_args(["kv", "--engine", *flags])
