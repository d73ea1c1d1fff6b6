"""llama.cpp as a peer of the engine: the files written for it, and its process, with a stand-in for its library."""

import math
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig

from slm_bench.errors import BenchError
from slm_bench.kv.engine.gguf_file import find_fault, write_gguf
from slm_bench.kv.engine.llama_peers import start_llama_peers
from slm_bench.kv.engine.llama_process import IllegalInstruction, LlamaCpp, start_llama
from slm_bench.kv.engine.workload import Workload

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
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand_in"))
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


def test_llama_answers_several_sequences_at_once_and_scores_a_text(tmp_path: Path, stand_in: str) -> None:
    with closing(LlamaCpp(stand_in, tmp_path / "Q8_0.gguf", 1, max_tokens=40, sequences=2)) as peer:
        assert peer.name == "llama.cpp 0.0 Q8_0"
        work = Workload("three", ([5, 6], [1], [9, 8, 20]), (3, 1, 2))
        assert peer.answer(work) == [[7, 8, 9], [2], [21, 22]]
        assert peer.loss([1, 2, 3, 4]) == pytest.approx(math.log(2), rel=1e-5)
        assert peer.seconds_to_start > 0 < peer.memory()


def test_where_repacked_weights_need_a_missing_instruction_llama_runs_without_them(
    tmp_path: Path, stand_in: str
) -> None:
    with pytest.raises(IllegalInstruction, match="used an instruction that this machine lacks"):
        LlamaCpp(stand_in, tmp_path / "amx.gguf", 1, 40, 2)
    with closing(start_llama(stand_in, tmp_path / "amx.gguf", 1, 40, 2)) as peer:
        assert peer.name == "llama.cpp 0.0 amx, without repacking"


def test_a_file_that_llama_cannot_load_is_reported_with_its_error(tmp_path: Path, stand_in: str) -> None:
    with pytest.raises(BenchError, match=r"llama\.cpp ended: .*cannot load .*bad\.gguf"):
        LlamaCpp(stand_in, tmp_path / "bad.gguf", 1, 40, 2)


@pytest.mark.parametrize(
    ("python", "adapter", "reason"),
    [(None, None, "it is not installed; see --llama_python"), ("python", "red", "it would ignore the adapter")],
)
def test_the_reason_why_llama_is_left_out(python: str | None, adapter: str | None, reason: str) -> None:
    settings = {"adapter": adapter, "dtype": "float32", "threads": 1}
    with ExitStack() as stack:
        assert start_llama_peers(python, GPT2LMHeadModel(GPT2), settings, (40, 2), stack) == ([], {"llama.cpp": reason})
