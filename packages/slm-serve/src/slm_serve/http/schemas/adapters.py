"""Bodies of ``POST /v1/load_lora_adapter`` and ``POST /v1/unload_lora_adapter``: vLLM's."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slm_serve.http.schemas.base.fields import Integer, StrictModel, Text

Name = Annotated[Text, Field(min_length=1, max_length=200)]


class LoadAdapterRequest(StrictModel):
    """The adapter in a folder, and the name it gets."""

    lora_name: Name
    lora_path: Annotated[
        Text,
        Field(min_length=1, max_length=4000, description="relative to --adapter_root, or an absolute path below it"),
    ]
    load_inplace: Annotated[bool, Field(description="replace the adapter that has this name")] = False


class UnloadAdapterRequest(StrictModel):
    """The adapter to unload."""

    lora_name: Name
    lora_int_id: Annotated[Integer | None, Field(description="accepted for compatibility; has no effect")] = None
