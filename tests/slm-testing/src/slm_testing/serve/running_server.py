"""A server on a free port of this machine, on a thread, and the models that it serves."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from fastapi import FastAPI
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from slm_adapters import ButterflySettings, LoraSettings, add_butterfly, add_lora, load
from slm_data import sample_base
from slm_serve import Settings, create_app

TIMEOUT = 60  # seconds for a response, and for anything that should happen soon


@dataclass
class RunningServer:
    """A server that responds at ``url``."""

    url: str
    app: FastAPI

    @property
    def service(self) -> Any:
        return self.app.state.service

    @property
    def engine(self) -> Any:
        return self.service.backend._engine

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=TIMEOUT, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=TIMEOUT, **options)

    def metric(self, name: str) -> float:
        """Return a value of /metrics, summed over its labels."""
        lines = self.get("/metrics").text.splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.partition("{")[0].split(" ")[0] == name]
        return sum(map(float, values))


@contextmanager
def running_server(*, wait_for_model: bool = True, **settings: Any) -> Iterator[RunningServer]:
    """Run a server with ``settings``; by default once its model is loaded or could not be loaded."""
    app = create_app(Settings(**{"threads": 1, "port": 0, "stream_interval": 0, **settings}))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    service = app.state.service
    try:
        wait_until(lambda: server.started)
        if wait_for_model:
            wait_until(lambda: not service.is_loading)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield RunningServer(f"http://127.0.0.1:{port}", app)
    finally:
        server.should_exit = True
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait until ``condition()`` is true; fail after TIMEOUT seconds."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"the condition was not met within {TIMEOUT} seconds"
        time.sleep(0.01)


def delayed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Return ``function`` with a pause before each call."""

    def call(*args: Any) -> Any:
        time.sleep(seconds)
        return function(*args)

    return call


def save_adapters(folder: Path) -> dict[str, Path]:
    """Save a LoRA (red) and a butterfly (moth) for the built-in base that change its texts, as slm-train saves them."""
    folders = {}
    for name in ("red", "moth"):
        base = load("sample", device="cpu").model
        settings = LoraSettings(r=4, alpha=8)
        model: Any = add_lora(base, settings) if name == "red" else add_butterfly(base, ButterflySettings())
        torch.manual_seed(len(name))
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key or "butterfly_" in key:
                    weight.normal_(std=0.2 if "lora_B" in key else 0.05)
        model.peft_config["default"].base_model_name_or_path = "sample"
        model.save_pretrained(folder / name, save_embedding_layers=False)
        folders[name] = folder / name
    return folders


def save_tiny_model(folder: Path, scale: float = 1.0) -> Path:
    """Save a tiny random model with the built-in base's tokenizer; with a large ``scale`` its logits become NaN."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=2048, n_positions=512, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(scale)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(sample_base()).save_pretrained(folder)
    return folder
