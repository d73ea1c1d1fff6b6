"""A job that runs in vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field

from slm_serve.backends.running_jobs import RunningJob
from slm_serve.backends.vllm.outputs import OutputDecoder, TextPiece
from slm_serve.backends.vllm.routes import Route


@dataclass
class VLLMJob(RunningJob):
    """A running job; ``whole_text`` collects the pieces of a job that does not stream."""

    route: Route = field(kw_only=True)
    decoder: OutputDecoder = field(kw_only=True)
    whole_text: TextPiece = field(default_factory=TextPiece)
    finished: bool = False
