"""Exported files in llama.cpp itself: the same logits, greedy tokens and tokens of texts as in transformers.

``SLM_LLAMA_PYTHON`` names a Python with llama-cpp-python, and ``SLM_SMOLLM2`` the folder of SmolLM2-135M-Instruct.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from slm_adapters import export_gguf, export_gguf_adapter, load
from slm_adapters.base.gguf.pre_tokenizers import PRE_TOKENIZERS
from slm_testing.adapters.tiny_adapters import with_lora
from slm_testing.export_models import EXPORTED, byte_level_tokenizer, save_model, save_tiny_model, tiny_model
from slm_testing.llama_process import VARIABLE, run_llama

needs_llama = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no Python with llama-cpp-python")
needs_smollm2 = pytest.mark.skipif("SLM_SMOLLM2" not in os.environ, reason="SLM_SMOLLM2 names no folder of SmolLM2")
pytestmark = [pytest.mark.slow("a process with llama.cpp for each test"), needs_llama]

NEW = 40
# llama.cpp looks its tanh approximation of GELU up in a table of half precision.
TOLERANCE = {"gpt2": 2e-3, "gemma": 2e-3, "phi": 2e-3, "gpt_neox": 2e-3}
TEXTS = [
    "Hello world",
    "  leading spaces and trailing  ",
    "a\n\n\nb\n c\t\td\r\n",
    "12345 3.14 1,000,000 v1.2.3 mixed 123abc456",
    "naïve café ÉCOLE Ünïcödé \u3000\u00a0z ½ ² ٣٤٥ Ⅷ ①",
    "🚀🔥 👨\u200d👩\u200d👧 ✅",
    "我想在apple工作1314151天～ 한국어 кириллица हिन्दी ภาษาไทย",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tpass",
    "don't we'll I'M it'S THEY'RE ABCdef iPhoneX",
    "<|im_start|>user\nhi<|im_end|>\n",
    "",
    "   ",
    "\n",
    "x" * 200,
    "__init__(self)->None: <|x|> #tag @user ...!!!???---",
    "\x01\x7f",
]


def greedy(model: PreTrainedModel, prompt: list[int], new: int) -> tuple[torch.Tensor, list[int]]:
    """Return the logits of a prompt and its greedy continuation, computed anew for each token."""
    ids = list(prompt)
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        for _ in range(new):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return logits, ids[len(prompt) :]


@pytest.mark.parametrize("name", EXPORTED)
def test_llama_cpp_continues_as_transformers_does(name: str, tmp_path: Path) -> None:
    windowed, long = name.endswith("_windowed"), name.endswith("_longrope")
    # Within the window; and so long that transformers takes longrope's long factors, as llama.cpp does from the start.
    length, new = (8, 8) if windowed else (40 if long else 24, NEW)
    prompt = torch.randint(4, 270, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    exported = export_gguf(save_tiny_model(tmp_path / name, name), tmp_path / "out", dtype="f32")
    logits, expected = greedy(tiny_model(name), prompt, new)
    result = run_llama(exported.file, prompt, new)
    tolerance = next((value for start, value in TOLERANCE.items() if name.startswith(start)), 1e-5)
    assert (torch.tensor(result.logits) - logits).abs().max() < tolerance * logits.abs().max()
    assert result.new == expected


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_llama_cpp_applies_an_adapter_alone(name: str, tmp_path: Path) -> None:
    base, prompt = save_tiny_model(tmp_path / "base", name), list(range(4, 28))
    adapted: Any = with_lora(tiny_model(name))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "run", save_embedding_layers=False)
    lora = export_gguf_adapter(tmp_path / "run", tmp_path / "lora", dtype="f32")
    file = export_gguf(base, tmp_path / "out", dtype="f32").file
    logits, expected = greedy(adapted, prompt, NEW)
    plain, result = run_llama(file, prompt), run_llama(file, prompt, NEW, lora=lora.file)
    assert (torch.tensor(plain.logits) - logits).abs().max() > 0.01 * logits.abs().max()
    assert (torch.tensor(result.logits) - logits).abs().max() < 2e-3 * logits.abs().max()
    assert result.new == expected


@pytest.mark.parametrize("known", PRE_TOKENIZERS, ids=lambda known: known.gguf)
def test_llama_cpp_tokenises_with_a_trained_vocabulary_as_we_do(known: Any, tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(known.build(), ignore_merges=known.ignore_merges)
    corpus = [text * 3 for text in TEXTS] + [Path(__file__).read_text(encoding="utf-8")]
    trained = tokenizer.train_new_from_iterator(corpus, 1500, show_progress=False)
    model = tiny_model("gpt2")
    model.resize_token_embeddings(len(trained))
    exported: Any = export_gguf(save_model(tmp_path / "model", model, trained), tmp_path / "out")
    texts = TEXTS if known.is_exact else [text for text in TEXTS if text.isascii()]
    assert run_llama(exported.file, texts=texts).texts == [trained(text)["input_ids"] for text in texts]
    assert any("ÉCOLE" in note for note in exported.notes) is not known.is_exact


@pytest.mark.parametrize("base", ["sample", pytest.param("SmolLM2", marks=needs_smollm2)])
def test_llama_cpp_tokenises_and_writes_as_a_real_model_does(base: str, tmp_path: Path) -> None:
    path = os.environ["SLM_SMOLLM2"] if base == "SmolLM2" else base
    exported = export_gguf(path, tmp_path / "out", dtype="f32")
    loaded = load(path)
    prompt = loaded.tokenizer("Once upon a time there was a small")["input_ids"]
    _, expected = greedy(loaded.model, prompt, NEW)
    result = run_llama(exported.file, prompt, NEW, TEXTS)
    assert result.texts == [loaded.tokenizer(text)["input_ids"] for text in TEXTS]
    assert result.new == expected
    config: Any = loaded.model.generation_config
    assert config.eos_token_id in result.ends


@needs_smollm2
@pytest.mark.parametrize(("dtype", "most"), [("q8_0", 0.01), ("q4_0", 0.25)])
def test_perplexity_of_quantised_files_is_close(dtype: str, most: float, tmp_path: Path) -> None:
    loaded = load(os.environ["SLM_SMOLLM2"])
    ids = loaded.tokenizer(Path(__file__).parents[2].joinpath("README.md").read_text())["input_ids"]
    rows = [ids[start : start + 500] for start in range(0, 4000, 500)]
    with torch.inference_mode():
        losses = [float(loaded.model(torch.tensor([row]), labels=torch.tensor([row])).loss) for row in rows]
    file = export_gguf(os.environ["SLM_SMOLLM2"], tmp_path / "out", dtype=dtype).file
    result = run_llama(file, rows=rows).losses
    ratio = float(torch.tensor(result).mean().exp() / torch.tensor(losses).mean().exp())
    print(f"{dtype}: perplexity {ratio:.4f} times that of f32")
    assert abs(ratio - 1) < most
