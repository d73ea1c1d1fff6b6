"""vLLM's engines and their LoRA adapters: which of them answers the requests for each model.

Adapters are added and removed while the engines run. All coroutines run on the event loop of vLLM's thread.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import Any

from slm_adapters import AdapterFolder, hub_error_reason, recorded_end_ids
from slm_serve.backends.vllm.library import VLLMLibrary
from slm_serve.backends.vllm.lora_support import decide_loading, max_lora_rank
from slm_serve.backends.vllm.plan import EnginePlan, ServingPlan, engine_arguments
from slm_serve.errors import RequestError, StartError, unknown_model

logger = logging.getLogger("slm_serve")


@dataclass(eq=False)
class Route:
    """The engine and the LoRA for the requests of one model.

    Attributes:
        end_ids: tokens that end a text.
        running: requests that have not ended.
        is_retired: whether no further request takes this route: its LoRA is removed after the last one.
    """

    engine: Any  # AsyncLLM
    engine_number: int
    end_ids: frozenset[int]
    lora: Any = None  # LoRARequest
    lora_id: int = 0
    running: int = 0
    is_retired: bool = False


class Routes:
    """The routes by served name."""

    def __init__(self, plan: ServingPlan, vllm: VLLMLibrary) -> None:
        self._plan, self._vllm = plan, vllm
        self._by_model: dict[str, Route] = {}
        self._lora_ids = itertools.count(1)
        self._loaded: set[int] = set()  # ids of the LoRAs that were added while the engines run

    def of(self, model: str) -> Route:
        """Return the route of a served model. Raises RequestError 404 if it was unloaded."""
        if model not in self._by_model:
            raise unknown_model(model, self._by_model)
        return self._by_model[model]

    def replace(self, model: str, route: Route | None) -> Route | None:
        """Let requests for ``model`` take ``route`` from now on, or none, and return the route that they took."""
        old = self._by_model.pop(model, None)
        if route:
            self._by_model[model] = route
        return old

    def check_removable(self, model: str) -> None:
        """Raise RequestError 409 if the adapter cannot be removed while the server runs."""
        if model in self._by_model and self._by_model[model].lora is None:
            raise RequestError(
                409,
                f"{model!r} is merged, in an engine of its own, which runs as long as the server; restart without it",
                param="lora_name",
                code="adapter_merged",
            )

    @property
    def engines(self) -> dict[int, Any]:
        """The engines by number."""
        return {route.engine_number: route.engine for route in list(self._by_model.values())}

    def clear(self) -> dict[int, Any]:
        """Forget all routes and return the engines."""
        engines, self._by_model = self.engines, {}
        return engines

    async def start_engine(self, number: int, engine_plan: EnginePlan) -> None:
        """Start an engine and load its LoRA adapters, so that a broken adapter is reported at start-up."""
        vllm, arguments = self._vllm, engine_arguments(self._plan, engine_plan, self._vllm.device)
        name = engine_plan.model
        try:
            # Its library is slm_kv's; the default would not read the grammars of tool calls.
            arguments["structured_outputs_config"] = vllm.structured_outputs_config(backend="guidance")
            engine = vllm.engine.from_engine_args(vllm.engine_args(**arguments))
            self._by_model[name] = Route(engine, number, self._plan.eos_token_ids)
            await self._warm_up(self._by_model[name])
            for name, folder in engine_plan.loras.items():
                route = self._lora_route(name, folder, self._by_model[engine_plan.model])
                self._by_model[name] = route
                await self._start_lora(route)
        except Exception as error:
            logger.exception("vLLM did not start")
            reason = hub_error_reason(error)
            raise StartError(f"vLLM cannot serve {name!r}: {reason}; see vLLM's log above") from error

    def check_loadable(self, adapter: AdapterFolder) -> None:
        """Raise ValueError for an adapter that vLLM cannot load itself, or for which it has no room."""
        engine_plan, folder = self._plan.engines[0], adapter.folder
        decision = decide_loading(
            self._plan.architecture,
            folder.config,
            folder.tensors,
            four_bit=folder.four_bit,
            max_rank=max_lora_rank(engine_plan.rank) if engine_plan.free_loras else 0,
        )
        if decision.method == "merged":
            raise ValueError(
                f"vLLM cannot load this adapter while it runs ({'; '.join(decision.reasons)}); restart the server with "
                "it as --adapter, which merges it"
            )
        if len(self._loaded) >= engine_plan.free_loras:
            raise ValueError(f"{engine_plan.free_loras} adapters were loaded already, the most with vLLM; unload one")

    async def add_lora(self, name: str, adapter: AdapterFolder) -> Route:
        """Load a LoRA into the base's engine. Raises ValueError, one sentence, if vLLM does not."""
        base = next(route for route in self._by_model.values() if route.engine_number == 0 and route.lora is None)
        # vLLM recognises cached prefixes by the name of the LoRA: a retrained one gets another name.
        route = self._lora_route(None, str(adapter.folder.path), base, name)
        route.end_ids |= frozenset(recorded_end_ids(adapter.folder))
        self._loaded.add(route.lora_id)
        try:
            await self._start_lora(route)
        except Exception as error:
            logger.exception("vLLM did not load an adapter")
            await self.retire(route)
            raise ValueError(
                f"vLLM cannot load this adapter: {hub_error_reason(error)}; see the server's log"
            ) from error
        return route

    async def retire(self, route: Route) -> None:
        """Let vLLM forget the LoRA of a route that no further request takes, once the last one has ended."""
        route.is_retired = True
        if route.running or route.lora is None:
            return
        try:
            await route.engine.remove_lora(route.lora_id)
            self._loaded.discard(route.lora_id)
        except Exception:  # the engine is dead, which ends all requests
            logger.exception("vLLM did not remove an adapter")

    def _lora_route(self, lora_name: str | None, folder: str, base: Route, name: str = "") -> Route:
        lora_id = next(self._lora_ids)
        lora = self._vllm.lora_request(lora_name or f"{name}#{lora_id}", lora_id, folder)
        return Route(base.engine, base.engine_number, base.end_ids, lora, lora_id)

    async def _start_lora(self, route: Route) -> None:
        await route.engine.add_lora(route.lora)
        await self._warm_up(route)

    async def _warm_up(self, route: Route) -> None:
        """Generate one token: the first one takes seconds, and a model that fails is reported at once."""
        params = self._vllm.sampling_params(temperature=0.0, max_tokens=1, detokenize=False)
        prompt = self._vllm.tokens_input([0])
        async for _ in route.engine.generate(prompt, params, "warm-up", lora_request=route.lora):
            pass
