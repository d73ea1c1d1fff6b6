"""Models and adapters that do not match or are damaged are refused in one sentence."""

import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BartConfig, DistilBertConfig, PreTrainedConfig, T5Config

import slm_testing.forked as forked
from slm_adapters import AdapterError, load, load_adapters
from slm_testing.adapters.tiny_adapters import MakeBase, MakeModel, adapted, edit_json, logits, save_run, tokenizer

architectures = pytest.mark.parametrize("name", ["gpt2", "llama"])
methods = pytest.mark.parametrize("method", ["lora", "butterfly"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pickled(path: Path, name: str) -> None:
    path.unlink()
    (path.parent / name).write_bytes(pickle.dumps(print))


def poison(path: Path, name: str) -> None:
    tensors = load_file(path)
    damaged = next(key for key in sorted(tensors) if name in key)
    tensors[damaged].view(-1)[3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})


def drop(path: Path, name: str) -> None:
    remaining = {key: tensor for key, tensor in load_file(path).items() if name not in key}
    save_file(remaining, path, metadata={"format": "pt"})


MODEL, ADAPTER = "model.safetensors", "adapter_model.safetensors"


CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"


BROKEN: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "no config": (lambda _, run: (run / ADAPTER_CONFIG).unlink(), "has neither config.json nor adapter_config.json"),
    "two configs": (lambda _, run: (run / CONFIG).write_text("{}"), "holds both config.json.*give each its own"),
    "no json": (lambda _, run: (run / ADAPTER_CONFIG).write_text("{"), "adapter_config.json is not valid JSON"),
    "no object": (lambda _, run: (run / ADAPTER_CONFIG).write_text("[1]"), "holds no JSON object"),
    "binary": (lambda _, run: (run / ADAPTER_CONFIG).write_bytes(b"\xff\xfe\x00"), "is not valid JSON"),
    "unknown": (
        lambda _, run: edit_json(run / ADAPTER_CONFIG, peft_type="MAGIC"),
        "method 'MAGIC', which PEFT .* not know",
    ),
    "no method": (lambda _, run: edit_json(run / ADAPTER_CONFIG, peft_type=None), "method None"),
    "bad task": (lambda _, run: edit_json(run / ADAPTER_CONFIG, task_type="SING"), "cannot be used: Invalid task type"),
    "no weights": (lambda _, run: (run / ADAPTER).unlink(), "has no weights .adapter_model.safetensors."),
    "cut": (lambda _, run: cut(run / ADAPTER), "adapter_model.safetensors is damaged or cut short"),
    "empty": (lambda _, run: (run / ADAPTER).write_bytes(b""), "adapter_model.safetensors is damaged or cut short"),
    "pickle": (
        lambda _, run: pickled(run / ADAPTER, "adapter_model.bin"),
        "adapter_model.bin is a pickle.*can run code",
    ),
    "nan": (
        lambda _, run: poison(run / ADAPTER, "h.0.attn.c_attn.lora_A"),
        "values that are not finite in transformer.h.0.attn.c_attn",
    ),
    "lacking": (
        lambda _, run: drop(run / ADAPTER, "h.1.mlp.c_fc.lora_B"),
        "it has no values for transformer.h.1.mlp.c_fc",
    ),
    "nameless": (
        lambda _, run: edit_json(run / ADAPTER_CONFIG, base_model_name_or_path=None),
        "not say what its base is",
    ),
    "gone": (lambda base, _: shutil.rmtree(base), "was trained on .*does not exist; .* or give the base model too"),
    "base cut": (lambda base, _: cut(base / MODEL), "model.safetensors is damaged or cut short"),
    "base pickle": (lambda base, _: pickled(base / MODEL, "pytorch_model.bin"), "is a pickle, and .* can run code"),
    "base nan": (lambda base, _: poison(base / MODEL, "h.1.attn.c_proj.weight"), "h.1.attn.c_proj.*weight has weights"),
    "base lacks": (lambda base, _: drop(base / MODEL, "h.1.ln_1.bias"), "lack transformer.h.1.ln_1.bias"),
    "base config": (lambda base, _: (base / CONFIG).write_text("?"), "config.json is not valid JSON"),
    "base strange": (
        lambda base, _: edit_json(base / CONFIG, model_type="abacus"),
        "cannot load the model .* model type `abacus`",
    ),
    "base sizes": (lambda base, _: edit_json(base / CONFIG, n_embd=32), "have other shapes than its config.json says"),
    "tokenizer": (lambda _, run: (run / "tokenizer.json").write_text("{"), "cannot load the tokenizer of"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_damaged_run_or_base_is_refused_in_one_sentence(
    tiny: MakeModel, make_base: MakeBase, tmp_path: Path, broken: str
) -> None:
    base = make_base("gpt2")
    run = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "run", str(base))
    damage, message = BROKEN[broken]
    damage(base, run)
    with pytest.raises(AdapterError, match=message) as error_info:
        load(run, device="cpu")
    print(error_info.value)
    assert "\n" not in str(error_info.value)


def test_nan_angles_are_refused_too(tiny: MakeModel, make_base: MakeBase, tmp_path: Path) -> None:
    run = save_run(adapted(tiny("gpt2"), "butterfly"), tmp_path / "run", str(make_base("gpt2")))
    poison(run / ADAPTER, "h.0.mlp.c_fc.butterfly_input")
    with pytest.raises(AdapterError, match=r"h\.0\.mlp\.c_fc\.butterfly_input"):
        load(run, device="cpu")


def test_a_four_bit_base_with_a_nan_is_refused(make_base: MakeBase) -> None:
    pytest.importorskip("bitsandbytes")
    base = make_base("gpt2")
    poison(base / MODEL, "h.1.attn.c_proj.weight")
    with pytest.raises(AdapterError, match=r"h\.1\.attn\.c_proj has weights that are not finite"):
        load(base, four_bit=True, device="cpu")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./nothing", r"folder \./nothing does not exist"),
        ("some/where/else", "folder some/where/else does not exist"),
        (Path("plain"), "folder plain does not exist"),
    ],
    ids=str,
)
def test_a_missing_folder_is_not_looked_up_on_the_hub(
    path: str | Path, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterError, match=message):
        load(path)


def test_a_file_in_place_of_a_folder_is_refused(make_base: MakeBase) -> None:
    with pytest.raises(AdapterError, match="is a file; give the folder that contains it"):
        load(make_base("gpt2") / MODEL)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [(method, wrong) for method in ("lora", "butterfly") for wrong in ("wider", "shallower", "another architecture")]
    + [("lora", "deeper")],  # a butterfly names its targets in full, so those of the first blocks fit
)
def test_the_adapter_of_another_model_is_refused(
    tiny: MakeModel, make_base: MakeBase, method: str, wrong: str, tmp_path: Path
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
    with pytest.raises(AdapterError) as error_info:
        load(other, run, device="cpu")
    print(error_info.value)
    assert "\n" not in str(error_info.value)


def test_a_base_name_other_than_the_recorded_one_is_refused_but_a_folder_is_loaded(
    tiny: MakeModel, make_base: MakeBase, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    model = adapted(tiny("gpt2"), "lora")
    run = save_run(model, tmp_path / "run", "distilbert/distilgpt2")
    message = "was trained on 'distilbert/distilgpt2', not on 'gpt2'; give 'distilbert/distilgpt2', or a folder"
    with pytest.raises(AdapterError, match=message):
        load("gpt2", run)
    assert torch.equal(logits(load(make_base("gpt2"), run, device="cpu").model, input_ids), logits(model, input_ids))


def test_two_adapters_or_two_models_are_refused(tiny: MakeModel, make_base: MakeBase, tmp_path: Path) -> None:
    base = make_base("gpt2")
    first = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "one", str(base))
    second = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "other", str(base))
    with pytest.raises(AdapterError, match=r"one holds an adapter, not a base model"):
        load(first, second)
    with pytest.raises(AdapterError, match=r"holds a whole model, not an adapter"):
        load(base, base)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        # transformers would load the decoder alone and call the weights incomplete
        (BartConfig(vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1), "an encoder besides its decoder"),
        (T5Config(vocab_size=64, d_model=16, num_layers=1), "an encoder besides its decoder"),
        (DistilBertConfig(vocab_size=64, dim=16, n_layers=1), "transformers has no such class for it"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_model_that_is_not_causal_is_called_so(make_base: MakeBase, config: PreTrainedConfig, message: str) -> None:
    base = make_base("gpt2")
    config.save_pretrained(base)
    with pytest.raises(AdapterError, match=f"{config.model_type}.* is not a causal language model: .*{message}"):
        load(base, device="cpu")


def test_code_in_a_model_folder_is_never_run(make_base: MakeBase, tmp_path: Path) -> None:
    base, trace = make_base("gpt2"), tmp_path / "trace"
    (base / "evil.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    edit_json(base / CONFIG, model_type="evil", auto_map={"AutoConfig": "evil.E", "AutoModelForCausalLM": "evil.M"})
    with pytest.raises(AdapterError, match="cannot load the"):
        load(base)
    assert not trace.exists()


class FailingHub(BaseHTTPRequestHandler):
    """Answers 404 for one repository and 503 for the other."""

    def do_GET(self) -> None:
        self.send_response(404 if "some/nothing" in self.path else 503)
        if "some/nothing" in self.path:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def failing_hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FailingHub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ASK = """
from slm_adapters import AdapterError, load, load_adapters
for name in ("some/nothing", "some/failing"):
    try:
        load(name)
    except AdapterError as refused:
        print(refused)
"""


def test_a_failing_hub_is_reported_in_one_sentence_that_names_the_repository(failing_hub: str, tmp_path: Path) -> None:
    hub = {"HF_ENDPOINT": failing_hub, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = forked.run_program(ASK, [], tmp_path, imported="torch", **hub)
    assert done.returncode == 0, done.stderr
    missing, failing = done.stdout.splitlines()
    assert re.match(r"cannot load the \w+ (of )?some/nothing: no repository of that name exists on the hub", missing)
    assert re.match(r"cannot load the \w+ (of )?some/failing: the hub answers with status 503", failing)


def test_a_device_that_cannot_be_used_is_refused_before_anything_is_loaded(base: Path) -> None:
    with pytest.raises(AdapterError, match="device 'gpu' cannot be used on this machine; use cpu"):
        load(base, device="gpu")
    with pytest.raises(AdapterError, match="device 'cuda:99' cannot be used"):
        load_adapters(base, {}, device="cuda:99")
