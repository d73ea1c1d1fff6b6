"""The comparison with llama.cpp: the files written for it, both processes, the tables; a stand-in for its library."""

import math
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
)

from slm_adapters import load
from slm_bench.errors import BenchError
from slm_bench.harness.result_file import Findings
from slm_bench.kv.engine.llama.comparison import LlamaSizes, Setting, add_comparison
from slm_bench.kv.engine.llama.gguf_file import find_fault, write_gguf
from slm_bench.kv.engine.llama.processes import Limits, LlamaCpp, start_llama
from slm_bench.kv.engine.llama.read_bytes import read_bytes
from slm_bench.kv.engine.llama.timeline import Timeline
from slm_bench.kv.engine.worker_process import IllegalInstruction
from slm_bench.kv.engine.workload import Workload
from slm_testing.serve.small_models import save_base

LLAMA = LlamaConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=True,
)
GPT2 = GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64)

# What the worker uses of llama_cpp. The likeliest token after each is the next number, with probability 1/2.
STAND_IN = """
import ctypes, math, os, signal
from types import SimpleNamespace as Values
__version__, VOCABULARY, inputs, loaded = "0.0", 64, [], []
def llama_backend_init(): print("llama.cpp logs")
def llama_model_default_params(): return Values()
def llama_context_default_params(): return Values()
def llama_model_load_from_file(path, options):
    loaded.append(options)
    return None if b"bad" in path else path
def llama_init_from_model(model, options):
    assert options.n_threads == options.n_threads_batch == 1 and options.n_ctx == options.n_seq_max * 256
    return model
def llama_model_get_vocab(model): return model
def llama_vocab_n_tokens(vocab): return VOCABULARY
def llama_batch_init(size, embedding, sequences):
    return Values(token=[0] * size, pos=[0] * size, logits=[0] * size, n_seq_id=[0] * size,
                  seq_id=[[0] for _ in range(size)])
def llama_get_memory(context): return context
def llama_memory_clear(memory, data): inputs.clear()
def llama_decode(context, batch):
    if b"amx" in context and loaded[0].use_extra_bufts: os.kill(os.getpid(), signal.SIGILL)
    for row in range(batch.n_tokens):  # each sequence is fed in order, without gaps
        sequence = batch.seq_id[row][0]
        assert batch.pos[row] == sum(other == sequence for other in inputs)
        inputs.append(sequence)
    llama_decode.batch = batch
    return 0
def llama_get_logits_ith(context, row):
    logits = [0.0] * VOCABULARY
    logits[(llama_decode.batch.token[row] + 1) % VOCABULARY] = math.log(VOCABULARY - 1)
    return (ctypes.c_float * VOCABULARY)(*logits)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An interpreter whose llama_cpp is the stand-in."""
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in" / "llama_cpp.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand_in"), prepend=os.pathsep)
    return sys.executable


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize(("format", "error"), [("F32", 1e-5), ("BF16", 0.02), ("Q8_0", 0.03), ("Q4_0", 0.3)])
def test_transformers_reads_the_logits_of_the_model_from_the_file(
    tmp_path: Path, config: Any, format: str, error: float
) -> None:
    pytest.importorskip("gguf")
    torch.manual_seed(0)
    model = (LlamaForCausalLM if config is LLAMA else GPT2LMHeadModel)(config).eval()
    write_gguf(model, tmp_path / "tiny.gguf", format)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf").eval()
    input_ids = torch.tensor([[1, 5, 90, 33, 2, 8]])
    with torch.inference_mode():
        expected, logits = model(input_ids).logits, read(input_ids).logits
    assert (logits - expected).norm() < error * expected.norm()


def test_an_architecture_that_is_not_written_is_named() -> None:
    model: Any = type("Model", (), {"config": OPTConfig()})()
    assert find_fault(model) == "slm-bench writes GGUF files of gpt2 and llama, not of opt"


LIMITS = Limits(threads=1, max_tokens=40, sequences=3)


def test_llama_answers_several_sequences_at_once_and_scores_texts(tmp_path: Path, stand_in: str) -> None:
    with closing(LlamaCpp(stand_in, tmp_path / "Q8_0.gguf", LIMITS)) as peer:
        assert peer.name == "llama.cpp 0.0 Q8_0"
        timeline = peer.answer(Workload("three", ([5, 6], [1], [9, 8, 20]), (3, 1, 2)))
        assert timeline.tokens == [[7, 8, 9], [2], [21, 22]]
        assert [len(times) for times in timeline.times] == [3, 1, 2]
        assert 0 < timeline.all_started < timeline.total
        assert peer.loss([[1, 2, 3, 4], [8, 9]]) == pytest.approx(math.log(2), rel=1e-5)
        assert peer.start_seconds > 0 < peer.memory()


def test_where_repacked_weights_need_a_missing_instruction_llama_runs_without_them(
    tmp_path: Path, stand_in: str
) -> None:
    with pytest.raises(IllegalInstruction, match="used an instruction that this machine lacks"):
        LlamaCpp(stand_in, tmp_path / "amx.gguf", LIMITS)
    with closing(start_llama(stand_in, tmp_path / "amx.gguf", LIMITS)) as peer:
        assert peer.name == "llama.cpp 0.0 amx, not repacked"


def test_a_file_that_llama_cannot_load_is_reported_with_its_error(tmp_path: Path, stand_in: str) -> None:
    with pytest.raises(BenchError, match=r"llama\.cpp ended: .*cannot load .*bad\.gguf"):
        LlamaCpp(stand_in, tmp_path / "bad.gguf", LIMITS)


def test_decoding_is_measured_from_the_last_first_token_to_the_first_last_one() -> None:
    timeline = Timeline([[1, 2, 3], [4, 5, 6, 7]], [[1.0, 2.0, 5.0], [3.0, 4.0, 5.0, 9.0]])
    assert (timeline.all_started, timeline.total, timeline.count) == (3.0, 9.0, 7)
    assert timeline.decode_speed == 3 / 2  # at 4, 5 and 5 seconds
    assert Timeline([[1], [2, 3]], [[1.0], [2.0, 3.0]]).decode_speed is None


def test_bytes_read_for_a_token_are_those_of_layers_head_and_cache() -> None:
    layer = 64 * (64 + 2 * 32 + 64 + 3 * 96)  # q, k and v, o, and the three of the MLP
    head, cache = 64 * 96, 2 * 2 * 32 * 2 * 10  # keys and values, two layers, 32 wide, 2 bytes, 10 tokens
    model = LlamaForCausalLM(LLAMA)
    assert read_bytes(model, "bfloat16", 10) == 2 * (2 * layer + head) + cache
    assert read_bytes(model, "Q4_0", 10) == 2 * layer * 18 / 32 + head * 34 / 32 + cache


@pytest.mark.parametrize(
    ("python", "adapter", "reason"),
    [(None, None, "it is not installed; see --llama_python"), ("python", "red", "it would ignore the adapter")],
)
def test_the_reason_why_llama_is_left_out(python: str | None, adapter: str | None, reason: str) -> None:
    setting, findings = Setting(GPT2LMHeadModel(GPT2), {"adapter": adapter}, None, python), Findings()
    add_comparison(findings, setting, lambda text: [0] * 600, LlamaSizes())
    assert findings.left_out == {"llama.cpp": reason}


def test_slm_kv_is_compared_with_llama_on_each_number_of_requests(tmp_path: Path, stand_in: str) -> None:
    pytest.importorskip("gguf")
    model = load(save_base(tmp_path, "tied"), device="cpu").model
    settings = {"model": str(tmp_path), "adapter": None, "dtype": "float32", "threads": 1, "rounds": 2}
    findings, sizes = Findings(), LlamaSizes((1, 2), prompt=400, new=4, scored=(1, 400))
    add_comparison(findings, Setting(model, settings, "float32", stand_in), lambda text: [*range(60)] * 3, sizes)
    single, double, footprints = findings.comparisons
    assert [row.name for row in footprints.rows] == ["slm-kv float32", "llama.cpp 0.0 F32"]
    assert double.ratio_names == ["decoding, slm-kv is", "prompts, slm-kv is", "overall, slm-kv is"]
    assert "of read bandwidth" in single.figure_names
    perplexity = float(str(footprints.rows[0].figures["perplexity"]))
    with torch.inference_mode():
        ids = torch.tensor([([*range(60)] * 3)[:127]])  # the model has 128 positions
        loss = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])
    assert perplexity == pytest.approx(math.exp(loss), rel=1e-3)
