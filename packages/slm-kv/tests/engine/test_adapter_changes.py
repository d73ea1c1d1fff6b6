"""Whatever adapters come and go, each text is that of a fresh model with its weights (a hypothesis state machine)."""

from functools import cache
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from slm_kv import Engine, Handle, TextEngine, TransformersEngine
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model

NEW = 6
PROMPTS = ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9], [7])  # with a common prefix of a page


def attach(model: PreTrainedModel, name: str, seed: int) -> PreTrainedModel:
    """Attach a LoRA with the random weights of ``seed``."""
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]), name)
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            if f".{name}" in key:
                weight.normal_(std=0.5)
    result: PreTrainedModel = adapted.eval()
    return result


@cache
def expected(seed: int | None, prompt: int) -> list[int]:
    """The text of transformers' generate, with the adapter of ``seed`` or none."""
    model = make_model("llama")
    return greedy_tokens(model if seed is None else attach(model, "x", seed), PROMPTS[prompt], NEW)


class ChangingAdapters(RuleBasedStateMachine):
    """Names are those of clients: an adapter that is replaced gets another name in the engine, as in a server."""

    @initialize(paged=st.integers(0, 3).map(bool), pages=st.integers(12, 40))
    def start(self, paged: bool, pages: int) -> None:
        model = make_model("llama")
        self.engine: TextEngine
        if paged:
            self.engine = Engine(model, page_size=4, max_pages=pages, max_sequences=4, max_step_tokens=6)
        else:
            self.engine = TransformersEngine(model, max_sequences=2)
        self.names: dict[str, tuple[str, int]] = {}  # the engine's name and the seed of the weights
        self.running: list[tuple[Handle, list[int]]] = []
        self.embeddings: list[tuple[Handle, int]] = []
        self.number = 0

    @rule(name=st.sampled_from("ab"), seed=st.integers(0, 2))
    def load(self, name: str, seed: int) -> None:
        engine_name, self.number = f"x{self.number}", self.number + 1
        self.engine.add_adapter(engine_name, lambda model: attach(model, engine_name, seed))
        self.unload(name)
        self.names[name] = engine_name, seed

    @precondition(lambda self: self.names)
    @rule(name=st.sampled_from("ab"))
    def unload(self, name: str) -> None:
        if name in self.names:
            self.engine.remove_adapter(self.names.pop(name)[0])

    @rule(data=st.data(), prompt=st.integers(0, 2))
    def submit(self, data: st.DataObject, prompt: int) -> None:
        name = data.draw(st.sampled_from([None, *self.names]))
        adapter, seed = self.names[name] if name else ("__base__", None)
        handle = self.engine.submit(PROMPTS[prompt], greedy_params(NEW), adapter=adapter)
        self.running.append((handle, expected(seed, prompt)))

    @rule(prompt=st.integers(0, 2))
    def embed(self, prompt: int) -> None:
        self.embeddings.append((self.engine.submit_embedding(PROMPTS[prompt], adapter="__base__"), prompt))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        handle, _ = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.engine.cancel(handle)

    @rule(steps=st.integers(1, 5))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.engine.step()

    @invariant()
    def finished_texts_are_right(self) -> None:
        for handle, tokens in getattr(self, "running", ()):
            assert handle.error is None
            assert handle.token_ids == tokens[: len(handle.token_ids)]
            assert not handle.finished or len(handle.token_ids) == NEW

    @invariant()
    def only_adapters_in_use_are_kept(self) -> None:
        if hasattr(self, "engine"):
            known = {name for name, _ in self.names.values()}
            in_use = {handle.adapter for handle, _ in self.running if not handle.finished} - {None}
            assert set(self.engine.adapters.names) == known
            assert len(self.engine.models) == 1 + len(known | in_use)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            while self.engine.busy:
                self.engine.step()
            self.finished_texts_are_right()
            assert all(handle.finished for handle, _ in self.running)
            assert all(handle.embedding is not None for handle, _ in self.embeddings)
            self.engine.close()


TestChangingAdapters = ChangingAdapters.TestCase
TestChangingAdapters.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
