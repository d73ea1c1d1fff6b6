"""The compiled decode step of an engine's base and of its adapters, each compared with the model before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from slm_kv.decode_step.recognise_adapter import recognise_adapter
from slm_kv.decode_step.recognise_parts import NotRecognised
from slm_kv.engine.verification.comparison import Subject
from slm_kv.engine.verification.compiled_step import CompiledStep, compile_step, find_fault, reference_logits
from slm_kv.engine.verification.model_state import keep_state, return_freed_memory
from slm_kv.pages.storage import PagedStorage
from slm_kv.peft_models import adapter_names, base_model, keep_adapter_state

if TYPE_CHECKING:  # numba may not be installed
    from slm_kv.decode_step.adapter import Adapter
    from slm_kv.decode_step.step import DecodeStep

MAX_REASONS = 2  # in a summary


@dataclass(frozen=True)
class CompiledAdapter:
    """What a compiled step computes for an adapter, or the reason why it cannot, as a clause."""

    adapter: Adapter | None
    reason: str = ""


class StepCompiler:
    """Compiles the step of an engine's base and adapters, and keeps what was understood.

    Attributes:
        base: The first model without adapters.
    """

    def __init__(self, base: Subject) -> None:
        self.base = base
        self._step = CompiledStep(None, "it was not compiled")
        self._adapters: dict[str, CompiledAdapter] = {}
        self._references: dict[str | None, list[Tensor] | None] = {}

    def compute_references(self) -> None:
        """Compute the models' own logits, before their layers are packed."""
        for name in (None, *self.base.adapters.names):
            self._references[name] = reference_logits(self._subject(name))

    def compile(self, positions: int) -> bool:
        """Compile the base and all adapters, once layers are packed, for texts of so many positions.

        Returns:
            Whether there is a compiled step.
        """
        self.base = replace(self.base, positions=positions)
        references = self._references
        self._step = compile_step(self.base, references.get(None))
        names = self.base.adapters.names
        self._adapters = {name: self.compile_adapter(self._subject(name), references.get(name)) for name in names}
        self._references = {}
        return_freed_memory()
        return self.has_step

    def refresh(self) -> None:
        """Compile again after weights have changed. What was understood before is not compared again."""
        if not self.has_step:
            return
        self._step = compile_step(self.base, None, verified=True)
        for name, compiled in self._adapters.items():
            if compiled.adapter is not None:
                self._adapters[name] = self.compile_adapter(self._subject(name), None, verified=True)

    def compile_adapter(
        self, subject: Subject, expected: list[Tensor] | None, *, verified: bool = False
    ) -> CompiledAdapter:
        """Recognise an adapter and compare a step of rows with it and without it; thread-safe.

        Args:
            subject: A model with the adapter.
            expected: Its ``reference_logits`` before it was packed; for None, see ``compile_step``.
            verified: It was compared before, with other weights.
        """
        description, first, own = self._step.description, base_model(self.base.model), base_model(subject.model)
        name = subject.adapter
        if description is None or name is None:
            return CompiledAdapter(None, "there is no compiled decode step")
        try:
            adapter = recognise_adapter(description, first, own, adapter_names(subject.model), name)
            fault = None if verified else self._fault(subject, {name: adapter}, expected)
        except NotRecognised as error:
            return CompiledAdapter(None, str(error))
        except Exception as error:
            return CompiledAdapter(None, f"{type(error).__name__} while it was tried")
        return CompiledAdapter(adapter) if fault is None else CompiledAdapter(None, f"its logits differ ({fault})")

    def add(self, name: str, compiled: CompiledAdapter) -> None:
        """Add an adapter."""
        self._adapters[name] = compiled

    def remove(self, name: str) -> None:
        """Forget an adapter."""
        self._adapters.pop(name, None)

    def clear(self, reason: str) -> None:
        """Forget everything; there is no compiled step any more, for this reason."""
        self._step, self._adapters = CompiledStep(None, reason), {}

    def step_on(self, storage: PagedStorage) -> DecodeStep | None:
        """The step on the pages of ``storage``, with the adapters that it can compute; None if there is none."""
        return self._with_adapters(self.adapters, storage, self.base.positions)

    @property
    def has_step(self) -> bool:
        """Whether the base has a compiled step."""
        return self._step.description is not None

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The adapters that the step can compute, by name."""
        return {name: each.adapter for name, each in self._adapters.items() if each.adapter is not None}

    @property
    def summary(self) -> str:
        """A clause for the engine's summary."""
        reasons = {name: each.reason for name, each in self._adapters.items() if each.adapter is None}
        if not self.has_step or not reasons:
            return self._step.summary
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:MAX_REASONS])
        more = "; ..." if len(reasons) > MAX_REASONS else ""
        total = f"{len(self._adapters)} adapter{'' if len(self._adapters) == 1 else 's'}"
        return f"{self._step.summary}, except with {len(reasons)} of {total} ({listed}{more})"

    def _subject(self, name: str | None) -> Subject:
        return replace(self.base, model=self.base.adapters.model_of(name), adapter=name)

    def _fault(self, subject: Subject, adapters: Mapping[str, Adapter], expected: list[Tensor] | None) -> str | None:
        with keep_state(subject.model), keep_adapter_state(subject.model):
            return find_fault(subject, partial(self._with_adapters, adapters), expected)

    def _with_adapters(
        self, adapters: Mapping[str, Adapter], storage: PagedStorage, positions: int, exact: bool = False
    ) -> DecodeStep | None:
        step = self._step.on(storage, positions, exact)
        if step is not None:
            step.adapters = adapters
        return step
