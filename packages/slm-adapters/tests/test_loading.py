"""What was trained comes back bit for bit, merged or not; what does not belong together is refused in a sentence."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import EntryPoint
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from slm_adapters import (
    AdapterError,
    ButterflyConfig,
    LoraSettings,
    add_lora,
    four_bit_config,
    load,
    prepare_four_bit,
)
from slm_adapters.quantization import dequantized, is_quantized
from slm_adapters.targets import linear_layers

Tiny = Callable[[str], PreTrainedModel]

architectures = pytest.mark.parametrize("name", ["gpt2", "llama"])
methods = pytest.mark.parametrize("method", ["lora", "butterfly"])


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each letter."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 .,!?'-"
    vocabulary = {token: at for at, token in enumerate(["<s>", "</s>", "<unk>", *letters])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")


def logits(model: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=input_ids, use_cache=False).logits
    return found


def adapted(model: PreTrainedModel, method: str) -> PeftModel:
    """An adapter that does something, as after training."""
    torch.manual_seed(1)
    if method == "butterfly":
        held: PeftModel = get_peft_model(model, ButterflyConfig(task_type="CAUSAL_LM", init_weights=False, scale=True))
    else:
        held = add_lora(model, LoraSettings(r=4))
        for name, weight in held.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.1)
    return held.eval()


def save_run(model: PeftModel, folder: Path, base: str, mode: str = "lora") -> Path:
    """As slm-train leaves it."""
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer().save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps({"mode": mode, "base": base}))
    return folder


@pytest.fixture
def make_base(tiny: Tiny, tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        folder = tmp_path / f"base-{name}"
        tiny(name).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return folder

    return make


MakeBase = Callable[[str], Path]


@architectures
def test_a_whole_model_comes_back_bit_for_bit_ready_to_answer(
    tiny: Tiny, make_base: MakeBase, name: str, input_ids: torch.Tensor
) -> None:
    loaded = load(make_base(name), device="cpu")
    assert torch.equal(logits(loaded.model, input_ids), logits(tiny(name), input_ids))
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert (loaded.base, loaded.adapter) == (str(make_base(name)), None)
    assert loaded.tokenizer("abc")["input_ids"] == [3, 4, 5]


def test_a_bfloat16_checkpoint_is_float32_unless_asked(tiny: Tiny, tmp_path: Path) -> None:
    tiny("gpt2").to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert load(tmp_path, device="cpu").model.dtype == torch.float32
    assert load(tmp_path, device="cpu", dtype=torch.bfloat16).model.dtype == torch.bfloat16


@architectures
@methods
def test_an_adapter_comes_back_bit_for_bit_however_it_is_named(
    tiny: Tiny, make_base: MakeBase, name: str, method: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    base, model = make_base(name), adapted(tiny(name), method)
    run, expected = save_run(model, tmp_path / "run", str(base)), logits(model, input_ids)
    assert not torch.allclose(expected, logits(tiny(name), input_ids), atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ways = [load(run, device="cpu"), load(str(run), run, device="cpu"), load(base, run, device="cpu")]
    for loaded in ways:
        assert torch.equal(logits(loaded.model, input_ids), expected)
        assert (loaded.base, loaded.adapter) == (str(base), str(run))
        assert not loaded.model.training
        assert not any(weight.requires_grad for weight in loaded.model.parameters())


def test_a_config_that_denies_gpt2s_transposed_layers_is_corrected_without_a_warning(
    tiny: Tiny, make_base: MakeBase, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    model = adapted(tiny("gpt2"), "lora")
    run = save_run(model, tmp_path / "run", str(make_base("gpt2")))
    change(run / "adapter_config.json", fan_in_fan_out=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(logits(load(run, device="cpu").model, input_ids), logits(model, input_ids))
        merged = load(run, merge=True, device="cpu").model
    torch.testing.assert_close(logits(merged, input_ids), logits(model, input_ids), rtol=1e-4, atol=1e-4)


@architectures
@methods
def test_merged_is_a_plain_model_that_answers_the_same(
    tiny: Tiny, make_base: MakeBase, name: str, method: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    model = adapted(tiny(name), method)
    run = save_run(model, tmp_path / "run", str(make_base(name)))
    merged = load(run, merge=True, device="cpu").model
    assert type(merged) is type(tiny(name))
    assert set(merged.state_dict()) == set(tiny(name).state_dict())
    torch.testing.assert_close(logits(merged, input_ids), logits(model, input_ids), rtol=1e-4, atol=1e-4)


def test_merging_rounds_once_at_the_end_and_leaves_rotary_frequencies_exact(
    tiny: Tiny, make_base: MakeBase, tmp_path: Path
) -> None:
    run = save_run(adapted(tiny("llama"), "lora"), tmp_path / "run", str(make_base("llama")))
    exact = load(run, merge=True, device="cpu").model
    rounded = load(run, merge=True, dtype=torch.bfloat16, device="cpu").model
    for name, weight in rounded.named_parameters():
        assert torch.equal(weight, exact.get_parameter(name).to(torch.bfloat16))
    assert {buffer.dtype for buffer in rounded.buffers()} == {torch.float32}


@pytest.fixture
def qlora(tiny: Tiny, make_base: MakeBase, tmp_path: Path) -> Callable[[str, str], tuple[PeftModel, Path]]:
    """An adapter over 4-bit weights, and its run."""
    pytest.importorskip("bitsandbytes")

    def make(name: str, method: str) -> tuple[PeftModel, Path]:
        base = make_base(name)
        whole = AutoModelForCausalLM.from_pretrained(base, quantization_config=four_bit_config(torch.float32))
        model = adapted(prepare_four_bit(whole, gradient_checkpointing=False), method)
        return model, save_run(model, tmp_path / "qlora", str(base), mode="qlora")

    return make


Qlora = Callable[[str, str], tuple[PeftModel, Path]]


@architectures
@methods
@pytest.mark.parametrize("avx512bf16", [False, True])
def test_what_was_trained_over_four_bits_is_loaded_over_four_bits(
    monkeypatch: pytest.MonkeyPatch,
    qlora: Qlora,
    name: str,
    method: str,
    avx512bf16: bool,
    input_ids: torch.Tensor,
) -> None:
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: avx512bf16)
    model, run = qlora(name, method)
    expected = logits(model, input_ids)
    assert torch.equal(logits(load(run, device="cpu").model, input_ids), expected)
    assert torch.equal(logits(load(run, run, device="cpu").model, input_ids), expected)
    whole = load(run, four_bit=False, device="cpu").model
    assert not any(is_quantized(layer) for layer in whole.modules())
    assert not torch.allclose(logits(whole, input_ids), expected, atol=1e-3)


@architectures
@methods
def test_merging_over_four_bits_keeps_the_weights_that_were_trained_over(
    qlora: Qlora, make_base: MakeBase, name: str, method: str, input_ids: torch.Tensor
) -> None:
    model, run = qlora(name, method)
    merged = load(run, merge=True, device="cpu").model
    assert not any(is_quantized(layer) for layer in merged.modules())
    assert {weight.dtype for weight in merged.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(merged, input_ids), logits(model, input_ids), rtol=1e-3, atol=1e-3)
    over_whole = load(run, merge=True, four_bit=False, device="cpu").model
    assert not torch.allclose(logits(over_whole, input_ids), logits(model, input_ids), atol=1e-3)


def test_a_whole_model_can_be_held_in_four_bits_and_taken_out_again(make_base: MakeBase) -> None:
    pytest.importorskip("bitsandbytes")
    base = make_base("gpt2")
    small = linear_layers(load(base, four_bit=True, device="cpu").model)
    whole = linear_layers(load(base, four_bit=True, merge=True, device="cpu").model)
    assert whole.keys() == small.keys()
    for name, layer in whole.items():
        assert torch.equal(layer.weight.T, dequantized(small[name]))  # type: ignore[operator]  # Conv1D


def test_a_checkpoint_of_a_qlora_run_knows_its_run(qlora: Qlora, input_ids: torch.Tensor) -> None:
    model, run = qlora("gpt2", "lora")
    checkpoint = run / "checkpoint-20"
    checkpoint.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run / name).rename(checkpoint / name)
    assert torch.equal(logits(load(checkpoint, device="cpu").model, input_ids), logits(model, input_ids))
    with pytest.raises(AdapterError, match=r"its run has not finished; give one of its checkpoints.*checkpoint-20"):
        load(run)


def test_without_bitsandbytes_a_four_bit_adapter_says_what_else_there_is(
    monkeypatch: pytest.MonkeyPatch, qlora: Qlora
) -> None:
    _, run = qlora("gpt2", "lora")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(AdapterError, match=r"bitsandbytes is not installed.*four_bit=False"):
        load(run)


def test_the_tokenizer_is_the_runs_own_or_else_the_bases(tiny: Tiny, make_base: MakeBase, tmp_path: Path) -> None:
    base = make_base("gpt2")
    run = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "run", str(base))
    own = tokenizer()
    own.add_tokens(["<own>"])
    own.save_pretrained(run)
    assert "<own>" in load(run, device="cpu").tokenizer.get_vocab()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (run / name).unlink()
    assert "<own>" not in load(run, device="cpu").tokenizer.get_vocab()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()
    with pytest.raises(AdapterError, match="has no tokenizer"):
        load(run)


def test_a_base_that_a_package_brings_is_found_by_its_name(
    tiny: Tiny, make_base: MakeBase, monkeypatch: pytest.MonkeyPatch, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    point = SimpleNamespace(name="sample", load=lambda: lambda: make_base("gpt2"))
    monkeypatch.setattr("slm_adapters.bases.entry_points", lambda **_: [point])
    run = save_run(adapted(tiny("gpt2"), "butterfly"), tmp_path / "run", "sample")
    assert torch.equal(logits(load("sample", device="cpu").model, input_ids), logits(tiny("gpt2"), input_ids))
    assert load(run, device="cpu").base == load("sample", run, device="cpu").base == "sample"
    with pytest.raises(AdapterError, match=r"trained on 'sample', not on 'distilgpt2'"):
        load("distilgpt2", run)


def test_without_that_package_it_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[EntryPoint] = []
    monkeypatch.setattr("slm_adapters.bases.entry_points", lambda **_: found)
    run = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "run", "sample")
    said = "base 'sample' is the built-in model of slm-data; install slm-data"
    for path in ("sample", run):
        with pytest.raises(AdapterError, match=said):
            load(path)


# What is refused


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pickled(path: Path, name: str) -> None:
    path.unlink()
    (path.parent / name).write_bytes(pickle.dumps(print))


def poison(path: Path, name: str) -> None:
    tensors = load_file(path)
    chosen = next(key for key in sorted(tensors) if name in key)
    tensors[chosen].view(-1)[3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})


def drop(path: Path, name: str) -> None:
    kept = {key: tensor for key, tensor in load_file(path).items() if name not in key}
    save_file(kept, path, metadata={"format": "pt"})


MODEL, ADAPTER = "model.safetensors", "adapter_model.safetensors"
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"

BROKEN: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "no config": (lambda _, run: (run / ADAPTER_CONFIG).unlink(), "has neither config.json nor adapter_config.json"),
    "two configs": (lambda _, run: (run / CONFIG).write_text("{}"), "holds both config.json.*give each its own"),
    "no json": (lambda _, run: (run / ADAPTER_CONFIG).write_text("{"), "adapter_config.json is not valid JSON"),
    "no object": (lambda _, run: (run / ADAPTER_CONFIG).write_text("[1]"), "holds no JSON object"),
    "binary": (lambda _, run: (run / ADAPTER_CONFIG).write_bytes(b"\xff\xfe\x00"), "is not valid JSON"),
    "unknown": (
        lambda _, run: change(run / ADAPTER_CONFIG, peft_type="MAGIC"),
        "method 'MAGIC', which PEFT .* not know",
    ),
    "no method": (lambda _, run: change(run / ADAPTER_CONFIG, peft_type=None), "method None"),
    "bad task": (lambda _, run: change(run / ADAPTER_CONFIG, task_type="SING"), "cannot be used: Invalid task type"),
    "no weights": (lambda _, run: (run / ADAPTER).unlink(), "has no weights .adapter_model.safetensors."),
    "cut": (lambda _, run: cut(run / ADAPTER), "adapter_model.safetensors is damaged or cut short"),
    "empty": (lambda _, run: (run / ADAPTER).write_bytes(b""), "adapter_model.safetensors is damaged or cut short"),
    "pickle": (
        lambda _, run: pickled(run / ADAPTER, "adapter_model.bin"),
        "adapter_model.bin is a pickle.*can run code",
    ),
    "nan": (
        lambda _, run: poison(run / ADAPTER, "h.0.attn.c_attn.lora_A"),
        "no finite numbers in transformer.h.0.attn.c_attn",
    ),
    "lacking": (
        lambda _, run: drop(run / ADAPTER, "h.1.mlp.c_fc.lora_B"),
        "it has nothing for transformer.h.1.mlp.c_fc",
    ),
    "nameless": (lambda _, run: change(run / ADAPTER_CONFIG, base_model_name_or_path=None), "not say what its base is"),
    "gone": (lambda base, _: shutil.rmtree(base), "was trained on .*does not exist; .* or give the base model too"),
    "base cut": (lambda base, _: cut(base / MODEL), "model.safetensors is damaged or cut short"),
    "base pickle": (lambda base, _: pickled(base / MODEL, "pytorch_model.bin"), "is a pickle, and .* can run code"),
    "base nan": (lambda base, _: poison(base / MODEL, "h.1.attn.c_proj.weight"), "h.1.attn.c_proj.*weight has weights"),
    "base lacks": (lambda base, _: drop(base / MODEL, "h.1.ln_1.bias"), "lack transformer.h.1.ln_1.bias"),
    "base config": (lambda base, _: (base / CONFIG).write_text("?"), "config.json is not valid JSON"),
    "base strange": (
        lambda base, _: change(base / CONFIG, model_type="abacus"),
        "cannot load the model .* model type `abacus`",
    ),
    "base sizes": (lambda base, _: change(base / CONFIG, n_embd=32), "have other shapes than its config.json says"),
    "tokenizer": (lambda _, run: (run / "tokenizer.json").write_text("{"), "cannot load the tokenizer of"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_one_sentence(tiny: Tiny, make_base: MakeBase, tmp_path: Path, broken: str) -> None:
    base = make_base("gpt2")
    run = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "run", str(base))
    spoil, said = BROKEN[broken]
    spoil(base, run)
    with pytest.raises(AdapterError, match=said) as refused:
        load(run, device="cpu")
    print(refused.value)
    assert "\n" not in str(refused.value)


def test_angles_that_are_no_numbers_are_refused_too(tiny: Tiny, make_base: MakeBase, tmp_path: Path) -> None:
    run = save_run(adapted(tiny("gpt2"), "butterfly"), tmp_path / "run", str(make_base("gpt2")))
    poison(run / ADAPTER, "h.0.mlp.c_fc.butterfly_input")
    with pytest.raises(AdapterError, match=r"h\.0\.mlp\.c_fc\.butterfly_input"):
        load(run, device="cpu")


def test_a_four_bit_base_with_a_nan_is_refused(make_base: MakeBase) -> None:
    pytest.importorskip("bitsandbytes")
    base = make_base("gpt2")
    poison(base / MODEL, "h.1.attn.c_proj.weight")
    with pytest.raises(AdapterError, match=r"h\.1\.attn\.c_proj has weights that are no finite numbers"):
        load(base, four_bit=True, device="cpu")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("./nothing", r"folder \./nothing does not exist"),
        ("some/where/else", "folder some/where/else does not exist"),
        (Path("plain"), "folder plain does not exist"),
    ],
    ids=str,
)
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(
    path: str | Path, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterError, match=said):
        load(path)


def test_a_file_of_a_folder_is_not_the_folder(make_base: MakeBase) -> None:
    with pytest.raises(AdapterError, match="is a file; give the folder it lies in"):
        load(make_base("gpt2") / MODEL)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [(method, wrong) for method in ("lora", "butterfly") for wrong in ("wider", "shallower", "another architecture")]
    + [("lora", "deeper")],  # a butterfly names its layers in full: those of the first blocks fit
)
def test_the_adapter_of_another_model_is_refused(
    tiny: Tiny, make_base: MakeBase, method: str, wrong: str, tmp_path: Path
) -> None:
    run = save_run(adapted(tiny("gpt2"), method), tmp_path / "run", str(make_base("gpt2")))
    if wrong == "another architecture":
        other = make_base("llama")
    else:
        sizes = {"wider": {"n_embd": 96}, "deeper": {"n_layer": 3}, "shallower": {"n_layer": 1}}[wrong]
        other = tmp_path / "other"
        config = tiny("gpt2").config
        config.update(sizes)
        AutoModelForCausalLM.from_config(config).save_pretrained(other)
        tokenizer().save_pretrained(other)
    with pytest.raises(AdapterError) as refused:
        load(other, run, device="cpu")
    print(refused.value)
    assert "\n" not in str(refused.value)


def test_another_name_than_the_adapters_own_is_refused_and_a_folder_has_to_fit(
    tiny: Tiny, make_base: MakeBase, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    model = adapted(tiny("gpt2"), "lora")
    run = save_run(model, tmp_path / "run", "distilbert/distilgpt2")
    said = "was trained on 'distilbert/distilgpt2', not on 'gpt2'; give 'distilbert/distilgpt2', or a folder"
    with pytest.raises(AdapterError, match=said):
        load("gpt2", run)
    assert torch.equal(logits(load(make_base("gpt2"), run, device="cpu").model, input_ids), logits(model, input_ids))


def test_two_adapters_or_two_models_are_no_pair(tiny: Tiny, make_base: MakeBase, tmp_path: Path) -> None:
    base = make_base("gpt2")
    one = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "one", str(base))
    other = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "other", str(base))
    with pytest.raises(AdapterError, match=r"one holds an adapter, not a base model"):
        load(one, other)
    with pytest.raises(AdapterError, match=r"holds a whole model, not an adapter"):
        load(base, base)


def test_code_that_comes_with_a_model_is_never_run(make_base: MakeBase, tmp_path: Path) -> None:
    base, trace = make_base("gpt2"), tmp_path / "trace"
    (base / "evil.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    change(base / CONFIG, model_type="evil", auto_map={"AutoConfig": "evil.E", "AutoModelForCausalLM": "evil.M"})
    with pytest.raises(AdapterError, match="cannot load the"):
        load(base)
    assert not trace.exists()


class Sick(BaseHTTPRequestHandler):
    """404 for one repository, 503 for the other."""

    def do_GET(self) -> None:
        self.send_response(404 if "some/nothing" in self.path else 503)
        if "some/nothing" in self.path:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def sick_hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sick)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ASK = """
from slm_adapters import AdapterError, load
for name in ("some/nothing", "some/sick"):
    try:
        load(name)
    except AdapterError as refused:
        print(refused)
"""


def test_a_sick_hub_is_one_sentence_that_names_the_repository(sick_hub: str, tmp_path: Path) -> None:
    env = os.environ | {"HF_ENDPOINT": sick_hub, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env=env)
    nothing, sick = done.stdout.splitlines()
    assert re.match(r"cannot load the \w+ (of )?some/nothing: nothing of that name is on the hub", nothing)
    assert re.match(r"cannot load the \w+ (of )?some/sick: the hub answers with status 503", sick)
