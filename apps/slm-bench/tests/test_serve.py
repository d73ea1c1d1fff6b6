"""``slm-bench serve`` as a user runs it: small runs on the built-in base, with a stand-in for vLLM."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from slm_bench.cli import main
from slm_bench.errors import BenchError
from slm_bench.harness.arguments import Command
from slm_bench.harness.presenter import present
from slm_bench.harness.provenance import new_result
from slm_bench.harness.result_file import Findings
from slm_bench.serve import benchmark
from slm_bench.serve.abuse import ATTACKS, Abuse, Phase
from slm_bench.serve.arguments import add_serve
from slm_bench.serve.client.closed_loop import Reply
from slm_bench.serve.client.prompts import Prompts
from slm_bench.serve.disconnects import Disconnects
from slm_bench.serve.overload import Overload
from slm_bench.serve.servers import programs
from slm_bench.serve.setting import Sizes
from slm_bench.serve.sigterm import Sigterm
from slm_data import sample_base

SMALL = Sizes(prompt=9, new=6, overload_seconds=0.5, disconnects=12, abuse_seconds=3, in_flight=12)

# A server that returns one token less than requested, and a load generator that sends nothing.
SERVER = """
import http.server, json, sys
assert "--enforce-eager" in sys.argv and "--max-num-seqs" in sys.argv
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.reply(b"", "text/plain")
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert request["ignore_eos"] and request["stream_options"] and request["model"] == "model"
        usage = {"completion_tokens": request["max_tokens"] - 1}
        self.reply(b"data: " + json.dumps({"choices": [{}], "usage": usage}).encode() + b"\\n\\n", "text/event-stream")
    def reply(self, data, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""
CLIENT = """
import json, os
def add_cli_args(parser):
    for name in ("--base-url", "--result-dir", "--result-filename", "--seed"): parser.add_argument(name)
    parser.add_argument("--num-prompts", type=int)
    parser.parse_args = lambda: parser.parse_known_args()[0]
def main(arguments):
    report = {"output_throughput": 30, "median_ttft_ms": 4, "p99_ttft_ms": 5, "median_tpot_ms": 6, "failed": 0,
              "completed": arguments.num_prompts}
    with open(os.path.join(arguments.result_dir, arguments.result_filename), "w") as file: json.dump(report, file)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An interpreter whose vLLM is the stand-in."""
    files = {
        "vllm/__init__.py": "",
        "vllm/entrypoints/openai/api_server.py": SERVER,
        "vllm/benchmarks/serve.py": CLIENT,
        "vllm-0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.0\n",
    }
    for name, text in files.items():
        path = tmp_path / "stand_in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand_in"))
    return sys.executable


def parse(*words: str) -> argparse.Namespace:
    parser = Command()
    add_serve(parser.add_subparsers())
    return parser.parse_args(["serve", *words])


@pytest.mark.slow  # starts the real server twice, and imports alone take a slow machine 20 seconds each
def test_a_run_measures_keeps_its_guarantees_and_writes_every_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stand_in: str
) -> None:
    # transformers serve takes long to start
    monkeypatch.setattr(programs, "TRANSFORMERS_MODULES", ["no_such_module"])
    out, plot = tmp_path / "results" / "serve.json", tmp_path / "plots" / "serve"
    words = ["--rounds", "1", "--requests", "4", "--concurrency", "2", "--vllm_python", stand_in]
    code = present(benchmark.measure(parse(*words, "--plot", str(plot)), SMALL), str(out), str(plot))
    printed = capsys.readouterr()
    assert code == 0, printed
    content = json.loads(out.read_text())
    results = content["results"]
    ours, other = results["speeds"]
    assert (ours["server"], other["server"]) == ("slm-serve", "vLLM 0.0")
    assert [turn["tokens"] for speed in results["speeds"] for turn in speed["turns"]] == [24, 20]
    assert ours["ratio"] == [1, 1, 1]
    assert all(len(turn[name]) == 4 for turn in ours["turns"] for name in ("first", "each"))
    assert [server["turns"][0]["completed"] for server in results["vllm_client"]] == [4, 4]
    assert [way["name"].split()[0] for way in results["overhead"]["ways"]] == ["slm-serve,", "slm-serve,", "the"]
    assert all(len(way[name]["seconds"]) == 1 for way in results["overhead"]["ways"] for name in ("seconds", "cpu"))
    assert set(results["overload"]["statuses"]) == {"200", "429"}
    assert results["overload"]["clients"] == 8
    assert sum(results["disconnects"]["left"].values()) == 12
    assert results["sigterm"]["statuses"] == {"200": 12}
    assert "folder" not in content["settings"]
    assert [phase["attack"] for phase in results["abuse"]["phases"]] == ["no attack", *ATTACKS]
    assert all(phase["latencies"] for phase in results["abuse"]["phases"])
    assert all(phase["attacker"] for phase in results["abuse"]["phases"][1:])
    assert len(content["promises"]) == 12
    titles = [comparison["title"] for comparison in results["comparisons"]]
    assert titles[:3] == ["throughput", "by vLLM's own load generator", "what HTTP costs"]
    assert titles[3:] == ["16 honest clients under attack"]
    assert plot.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "transformers serve is left out" in printed.err
    assert printed.out.count("kept") == 12
    assert "slm-serve is" in printed.out
    assert "the load generator took at most" in printed.out
    assert printed.out.count("MB before") == 1


NOTHING_HELD = {"slm_running": 0, "slm_queue": 0, "slm_pages_used": 0}
LEAK = NOTHING_HELD | {"slm_pages_used": 3}
CALM = Phase("no attack", (0.1,), {200: 1}, 0, 2.0, 0, 10**9, {})  # its own health and memory are not judged


def attacked(**observed: Any) -> Abuse:
    """Return an abuse with one attack that broke nothing, except for ``observed``."""
    return Abuse(
        16,
        (CALM, replace(Phase("slow_requests", (0.1,), {200: 9, 429: 1}, 0, 0.1, 0, 0, {}), **observed)),
        NOTHING_HELD,
    )


@pytest.mark.parametrize(
    ("measured", "broken"),
    [
        (Overload(4, 1, {200: 9, 429: 2, 500: 1}, (0.1,), 0, 1, 1, NOTHING_HELD), "answers 200 or 429"),
        (Overload(4, 1, {429: 2}, (), 0, 1, 1, NOTHING_HELD), "answers 200 or 429"),  # accepted nothing
        (Overload(4, 1, {200: 9}, (0.1,), 0, 1, 1, NOTHING_HELD), "answers 200 or 429"),  # never overloaded
        (Overload(4, 1, {200: 9, 429: 2, 0: 1}, (0.1,), 0, 1, 1, NOTHING_HELD), "answers 200 or 429"),
        (Overload(4, 1, {200: 9, 429: 2}, (0.1,), 1, 1, 1, NOTHING_HELD), "got all tokens"),
        (Overload(4, 1, {200: 9, 429: 2}, (0.1,), 0, 1, 1, LEAK), "after the overload it holds nothing"),
        (Disconnects({}, LEAK, Reply(200, 0, 0, 6), 6), "holds nothing for clients"),
        (Disconnects({}, NOTHING_HELD, Reply(200, 0, 0, 5), 6), "answers the next request"),
        (Disconnects({}, NOTHING_HELD, Reply(503, 0, 0, 0), 6), "answers the next request"),
        (attacked(unanswered=1), "each honest client is answered"),
        (attacked(statuses={200: 9, 503: 1}), "each honest client is answered"),
        (attacked(statuses={200: 9, 0: 1}), "each honest client is answered"),
        (attacked(slowest_health=1.2), "health checks"),
        (attacked(rss_peak=300_000_000), "no attack takes 256 MB"),
        (replace(attacked(), held=LEAK), "after the attacks it holds nothing"),
        (Sigterm(5, 5, {200: 4, 504: 1}, 0, 1, 0), "answered whole"),
        (Sigterm(5, 5, {200: 5}, 1, 1, 0), "answered whole"),
        (Sigterm(5, 0, {200: 5}, 0, 1, 0), "answered whole"),  # nothing was in flight
        (Sigterm(5, 5, {200: 5}, 0, 1, -9), "exit code is 0"),
        (Sigterm(5, 5, {200: 5}, 0, 1, None), "exit code is 0"),
    ],
)
def test_a_broken_guarantee_is_named_and_the_exit_code_is_1(
    measured: Any, broken: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = Findings()
    findings.add("measured", measured, guarantees=measured.guarantees)
    (guarantee,) = [guarantee for guarantee in findings.guarantees if not guarantee.holds]
    assert broken in guarantee.statement
    monkeypatch.setattr(benchmark, "measure", lambda arguments: new_result("serve", {}, findings))
    assert main(["serve"]) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_prompts_have_the_requested_number_of_tokens_and_none_comes_twice() -> None:
    tokenizer = AutoTokenizer.from_pretrained(sample_base())
    prompts = Prompts(tokenizer, 64).take(20)
    assert {len(tokenizer(prompt)["input_ids"]) for prompt in prompts} == {64}
    assert len({tuple(tokenizer(prompt)["input_ids"][:16]) for prompt in prompts}) == 20
    assert prompts == Prompts(tokenizer, 64).take(20)


def test_a_tokenizer_that_never_reproduces_an_excerpt_ends_the_run() -> None:
    class Growing(PreTrainedTokenizerFast):
        def decode(self, ids: Any, **more: Any) -> str:
            return "x " * 99

    with pytest.raises(BenchError, match="reads none as 64 tokens"):
        Prompts(Growing.from_pretrained(sample_base()), 64).take(1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vllm_python", "no/such/python"], "no/such/python: there is no such interpreter"),
        (["--transformers_python", "no/such/python"], "no/such/python: there is no such interpreter"),
        (["--plot", "somewhere", "--only", "sigterm"], "--plot shows the throughput, which --only leaves out"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("slm-bench: ")
    assert message in line


def test_measurements_are_selected_by_name() -> None:
    assert parse("--only", "sigterm, overload").only == ("overload", "sigterm")
    with pytest.raises(SystemExit):
        parse("--only", "everything")
