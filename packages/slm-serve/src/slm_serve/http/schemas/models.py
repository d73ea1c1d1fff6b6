"""Bodies of ``GET /v1/models``: OpenAI's fields, and more about adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelCard(BaseModel):
    """A served model.

    ``weights``: how its weights are used, such as ``unmerged``; ``default``: whether it answers requests without a
    model name; ``backend_reason``: why the model is not served by slm-kv's paged engine, if ``--backend auto`` chose.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "slm"
    max_model_len: int
    kind: Literal["base", "adapter"]
    parent: str | None
    weights: str
    default: bool
    backend: Literal["engine", "transformers", "vllm"]
    backend_reason: str | None


class ModelList(BaseModel):
    """All served models, the default first."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
