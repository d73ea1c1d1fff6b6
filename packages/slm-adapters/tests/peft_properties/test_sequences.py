"""Any sequence of PEFT's operations leaves a model that computes what its active or merged adapter computes alone."""

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from peft import PeftModel
from torch import Tensor

from slm_testing.adapters.peft_cases import CASES, perturb
from slm_testing.adapters.tiny_adapters import assert_same_bits, copy_state

BASE = CASES["defaults"]
KINDS = ["defaults", "blocks", "scale", "stages-strength", "excluded"]  # configurations of the same base
NAMES = ["a", "b", "c"]


@dataclass(frozen=True)
class Adapter:
    """What determines the output of an adapter: the case of its configuration, its values and its strength."""

    kind: str
    seed: int
    strength: float


@cache
def alone(adapter: Adapter) -> Tensor:
    """Return the output of a new model with this adapter only."""
    adapted = CASES[adapter.kind].start(strength=adapter.strength)
    perturb(adapted, seed=adapter.seed)
    return BASE.outputs(adapted)


@dataclass
class Expected:
    """The adapters that a model should have, which of them is active, and which is merged."""

    adapters: dict[str, Adapter] = field(default_factory=dict)
    active: str = ""
    merged: str = ""


kinds, seeds, names = st.sampled_from(KINDS), st.integers(0, 2), st.sampled_from(NAMES)
strengths = st.sampled_from([1.0, 0.5, -1.0, 0.0])


class Operations(RuleBasedStateMachine):
    """Adds, switches, deletes, merges, disables and saves adapters of one model, in any order."""

    @initialize(kind=kinds, seed=seeds)
    def start(self, kind: str, seed: int) -> None:
        self.adapted: PeftModel = CASES[kind].start(name="a", strength=1.0)
        perturb(self.adapted, "a", seed)
        self.expected = Expected({"a": Adapter(kind, seed, 1.0)}, "a")

    def unmerged(self) -> bool:
        return not self.expected.merged

    @rule(name=names, kind=kinds, seed=seeds, strength=strengths)
    def add(self, name: str, kind: str, seed: int, strength: float) -> None:
        if name not in self.expected.adapters:
            CASES[kind].add(self.adapted, name, seed, strength=strength)
            self.expected.adapters[name] = Adapter(kind, seed, strength)

    @rule(name=names)
    def activate(self, name: str) -> None:
        if name in self.expected.adapters:
            self.adapted.set_adapter(name)  # which unmerges
            self.expected.active, self.expected.merged = name, ""

    @precondition(unmerged)
    @rule(name=names)
    def delete(self, name: str) -> None:
        if name in self.expected.adapters and len(self.expected.adapters) > 1:
            self.adapted.delete_adapter(name)
            del self.expected.adapters[name]
            self.expected.active = self.adapted.active_adapters[0]
            assert name != self.expected.active

    @precondition(unmerged)
    @rule(name=names, strength=strengths)
    def set_strength(self, name: str, strength: float) -> None:
        if name in self.expected.adapters:
            self.adapted.base_model.set_strength(strength, name)
            self.expected.adapters[name] = replace(self.expected.adapters[name], strength=strength)

    @precondition(unmerged)
    @rule(safe=st.booleans())
    def merge(self, safe: bool) -> None:
        self.adapted.merge_adapter(safe_merge=safe)
        self.expected.merged = self.expected.active

    @rule()
    def unmerge(self) -> None:
        self.adapted.unmerge_adapter()
        self.expected.merged = ""

    @rule()
    def disable(self) -> None:
        with self.adapted.disable_adapter():  # which unmerges
            assert torch.equal(BASE.outputs(self.adapted), BASE.outputs(BASE.base()))
        self.unmerge()

    @precondition(unmerged)
    @rule()
    def save_and_load(self) -> None:
        active = self.expected.active
        with TemporaryDirectory() as folder:
            self.adapted.save_pretrained(folder)
            self.adapted = PeftModel.from_pretrained(BASE.base(), Path(folder) / active, active)
            for name in self.expected.adapters.keys() - {active}:
                self.adapted.load_adapter(str(Path(folder) / name), name)

    @rule(training=st.booleans())
    def switch_mode(self, training: bool) -> None:
        self.adapted.train(training)

    @invariant()
    def the_output_is_that_of_one_adapter(self) -> None:
        output = BASE.outputs(self.adapted)
        if self.expected.merged:
            merged = self.expected.adapters[self.expected.merged]
            torch.testing.assert_close(output, alone(merged), rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(output, alone(self.expected.adapters[self.expected.active]))

    def teardown(self) -> None:
        if hasattr(self, "adapted"):
            self.adapted.unmerge_adapter()
            assert_same_bits(copy_state(self.adapted.unload()), copy_state(BASE.base()))


Operations.TestCase.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)
TestOperations = Operations.TestCase
