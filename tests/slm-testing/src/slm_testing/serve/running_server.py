"""A server on a port of this machine, in a thread, and the models that it serves."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from fastapi import FastAPI
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from slm_adapters import ButterflySettings, LoraSettings, add_butterfly, add_lora, load
from slm_data import sample_base
from slm_serve import Settings, create_app
from slm_serve.service import Service

PATIENCE = 60  # seconds for a server to get ready, and for what is to happen soon


@dataclass
class Running:
    """A server that answers at ``url``."""

    url: str
    app: FastAPI

    @property
    def service(self) -> Service:
        found: Service = self.app.state.service
        return found

    @property
    def engine(self) -> Any:
        backend: Any = self.service.backend
        return backend._engine

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=PATIENCE, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=PATIENCE, **more)

    def figure(self, name: str) -> float:
        """Of /metrics; summed over labels."""
        lines = [
            line for line in self.get("/metrics").text.splitlines() if line.partition("{")[0].split(" ")[0] == name
        ]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextmanager
def running(**settings: Any) -> Iterator[Running]:
    """A server with ``settings``, once its model is loaded or could not be."""
    app = create_app(Settings(**{"threads": 1, "port": 0, "stream_interval": 0, **settings}))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    service: Service = app.state.service
    try:
        until(lambda: server.started)
        until(lambda: service.trouble != "the model is loading")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(f"http://127.0.0.1:{port}", app)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def until(happened: Any) -> None:
    """Wait for something that has to come true soon."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def save_adapters(folder: Path) -> dict[str, Path]:
    """A LoRA and a butterfly over the built-in base that do something, as slm-train leaves them."""
    found = {}
    for name in ("red", "moth"):
        base = load("sample", device="cpu").model
        model: Any = add_lora(base, LoraSettings(r=4, alpha=8)) if name == "red" else _rotated(base)
        torch.manual_seed(len(name))
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key or "butterfly_" in key:
                    weight.normal_(std=0.2 if "lora_B" in key else 0.05)
        model.peft_config["default"].base_model_name_or_path = "sample"
        model.save_pretrained(folder / name, save_embedding_layers=False)
        found[name] = folder / name
    return found


def _rotated(base: PreTrainedModel) -> PreTrainedModel:
    return add_butterfly(base, ButterflySettings())


def save_tiny(folder: Path, scale: float = 1.0) -> Path:
    """A tiny random model with the built-in base's tokenizer; with a large ``scale`` its logits are no numbers."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=2048, n_positions=512, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(scale)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(sample_base()).save_pretrained(folder)
    return folder
