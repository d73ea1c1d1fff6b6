"""A server is ready only if every served model can generate."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft.tuners.lora.layer import Linear
from safetensors.torch import load_file, save_file

from slm_serve.backends import readiness
from slm_serve.backends.readiness import check_generation
from slm_testing.serve.running_server import running_server
from slm_testing.serve.small_models import lora_config, save_adapter, save_base, save_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("readiness") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base.parent / "adapter", base, lora_config())


def test_a_model_that_gives_nan_is_not_ready(refused: Callable[..., str], tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "broken", scale=3e38)
    assert refused("--model_path", str(model)).startswith("slm-serve: 'broken' cannot generate: the model gave ")


def test_an_adapter_that_gives_nan_is_named_and_the_base_alone_can_start(
    refused: Callable[..., str], base: Path, adapter: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(adapter, tmp_path / "damaged")
    file = damaged / "adapter_model.safetensors"
    save_file({name: weight * 1e30 for name, weight in load_file(file).items()}, file)
    flags = ["--model_path", str(base), "--adapter", f"good={adapter}", "--adapter", f"bad={damaged}"]
    assert refused(*flags).startswith("slm-serve: 'bad' cannot generate: the model gave ")
    with running_server(model_path=str(base), adapter=(f"good={adapter}",)) as server:
        assert server.get("/health/ready").status_code == 200


def test_an_adapter_whose_layers_fail_is_named(
    refused: Callable[..., str], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = save_adapter(tmp_path / "dora", base, lora_config(use_dora=True))  # a compiled step calls no layers
    forward = Linear.forward

    def failing_forward(layer: Any, *args: Any, **options: Any) -> Any:
        if not layer.disable_adapters:
            raise RuntimeError("expected m1 and m2 to have the same dtype\nand more")
        return forward(layer, *args, **options)

    def check_with_failing_forward(*args: Any) -> None:
        monkeypatch.setattr(Linear, "forward", failing_forward)
        check_generation(*args)

    monkeypatch.setattr(readiness, "check_generation", check_with_failing_forward)
    line = refused("--model_path", str(base), "--adapter", f"red={adapter}")
    assert line.startswith("slm-serve: 'red' cannot generate: RuntimeError: expected m1 and m2 to have the same dtype;")


def test_a_bfloat16_model_with_tied_embeddings_and_a_float32_lora_can_start(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "tied")
    adapter = save_adapter(tmp_path / "adapter", base, lora_config())
    with running_server(model_path=str(base), adapter=(f"red={adapter}",), dtype="bfloat16") as server:
        assert server.get("/health/ready").status_code == 200
        for model in ("base", "red"):
            assert server.post("/v1/completions", {"prompt": "a", "model": model, "max_tokens": 3}).status_code == 200


@pytest.mark.parametrize(("pages", "size"), [(1, 1), (1, 2), (2, 1)])
def test_the_smallest_context_is_enough(base: Path, pages: int, size: int) -> None:
    with running_server(model_path=str(base), max_pages=pages, page_size=size) as server:
        assert server.get("/health/ready").status_code == 200
        assert server.post("/v1/completions", {"prompt": [5], "max_tokens": 1}).status_code == 200
