"""Settings of the server, from flags, ``SLM_`` environment variables, or Python."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from slm_serve.errors import StartError

# Variables with the prefix SLM_ that other packages of the workspace read. They are not settings of the server.
FOREIGN_VARIABLES = {"SLM_CACHE"}
ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")  # as browsers send it: without a path
HOST_NAME = re.compile(r"\*|(\*\.)?[^/\s:*?#@\[\]]+|\[[0-9A-Fa-f:.]+\]")
PositiveInt = Annotated[int, Field(ge=1)]


class NamedAdapter(BaseModel):
    """The folder of an adapter and the name by which clients select it."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: str

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not ADAPTER_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a valid name: start with a letter or digit, then use letters, digits and . _ : / -"
            )
        return name

    @classmethod
    def parse(cls, text: str) -> NamedAdapter:
        """Parse ``name=path``."""
        name, equals, path = text.partition("=")
        if not (equals and name and path):
            raise ValueError(f"{text!r} is not of the form name=path")
        return cls(name=name.strip(), path=path.strip())


class Settings(BaseSettings):
    """Server settings. Each field is a flag of ``slm-serve`` and an environment variable (``SLM_`` + upper-case name).

    Raises pydantic's ValidationError for values out of range.
    """

    model_config = SettingsConfigDict(env_prefix="SLM_", frozen=True, extra="forbid", hide_input_in_errors=True)

    model_path: str = Field(
        "sample", min_length=1, description="model folder, .gguf file, name on the hub, or 'sample', the built-in base"
    )
    adapter_path: str | None = Field(None, description="adapter folder; served under the folder's name, as the default")
    adapter: Annotated[tuple[NamedAdapter, ...], NoDecode] = Field(
        (), description="an adapter folder and the name it is served under, as name=path; may be repeated"
    )
    adapter_root: str | None = Field(
        None,
        description="folder below which POST /v1/load_lora_adapter may load adapters while the server runs; needs an "
        "API key (default: no adapter is loaded later)",
    )
    served_model_name: str | None = Field(None, description="name of the base for clients (default: its own name)")
    backend: Literal["auto", "engine", "transformers", "vllm"] = Field(
        "auto",
        description="what generates text: slm-kv's paged engine, transformers' own generation, or vLLM; auto takes the "
        "engine if the model's attention can use pages, else transformers",
    )
    merged_path: str | None = Field(
        None,
        description="folder in which --backend vllm keeps merged models (default: $SLM_CACHE/merged, else "
        "~/.cache/slm/merged)",
    )
    weights: Literal["auto", "float32", "bfloat16", "q8", "q4"] = Field(
        "auto",
        description="number format of the weights; auto is a dtype, never quantised; q8 and q4 (8 and 4 bits, on a "
        "CPU) are used if they raise the perplexity of a text by at most 1 % and 3 %",
    )
    weights_text: str | None = Field(
        None, description="text file on which q8 and q4 are measured (default: a built-in text in English)"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="data type of the weights and the KV cache, if it is not given by --weights; auto takes that of "
        "the checkpoint, or float32 where that would be slower and with --backend vllm on a CPU",
    )
    device: str | None = Field(None, description="cpu, cuda, mps or xpu (default: a GPU if there is one)")
    threads: PositiveInt | None = Field(None, description="CPU threads (default: the fastest number in a short test)")

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    api_key: SecretStr | None = Field(
        None, description="key required for all requests except health checks; prefer the variable SLM_API_KEY"
    )
    cors_origin: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origin whose pages may call this server; may be repeated"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="further name by which clients address this server, checked against the Host header; *.name allows "
        "subdomains and * any name; may be repeated (default: names of this machine on loopback, else any)",
    )
    max_connections: PositiveInt = Field(
        1000, description="open connections; beyond that, those that wait longest for their clients are closed"
    )
    header_timeout: float = Field(10, gt=0, description="seconds for the headers of a request to arrive")
    body_timeout: float = Field(30, gt=0, description="seconds for the body of a request to arrive")
    send_timeout: float = Field(
        30, gt=0, description="seconds after which a client that does not read its answer is disconnected"
    )

    page_size: PositiveInt = Field(16, description="tokens per page of the KV cache")
    max_pages: PositiveInt = Field(512, description="pages in the pool, which is allocated at start-up and never grows")
    max_sequences: PositiveInt = Field(16, description="texts generated at the same time, in turn with transformers")
    max_step_tokens: PositiveInt = Field(
        256, description="tokens computed in one step of the engine, in prompts and new texts together"
    )
    speculate: Literal["auto", "off"] = Field(
        "auto",
        description="auto drafts tokens that repeat the prompt or the text so far, and checks them in one step while "
        "that is faster; the texts are the same. Only with the engine",
    )

    cuda_graphs: Literal["auto", "off"] = Field(
        "off",
        description="auto captures the engine's decode steps on a CUDA device and replays each with one launch. Only "
        "with the engine",
    )

    stream_interval: float = Field(
        0.02, ge=0, description="minimum seconds between two events of a stream; tokens in between are sent together"
    )

    strict: bool = Field(False, description="reject unknown fields and nulls under /v1 instead of ignoring them")
    truncate_prompt: bool = Field(
        False,
        description="shorten prompts under /v1 that are too long, instead of rejecting them: the oldest turns of a "
        "chat, except for its system message, or the beginning of a text",
    )
    max_queue: int = Field(64, ge=0, description="texts that may wait to be generated; requests beyond that get 429")
    max_prompt_tokens: PositiveInt | None = Field(
        None, description="maximum length of a prompt (default: the context length of the model)"
    )
    max_new_tokens: PositiveInt | None = Field(
        None, description="maximum number of new tokens per request (default: what fits into the context)"
    )
    request_timeout: float = Field(
        120, gt=0, description="seconds after which a request gets 504, or, if it has no token limit, its text so far"
    )
    drain_timeout: float = Field(30, ge=0, description="seconds that running requests get to finish after SIGTERM")
    max_body_bytes: PositiveInt = Field(1_000_000, description="maximum size of a request body; larger ones get 413")
    log_prompts: bool = Field(False, description="log prompts and generated texts")

    @field_validator("adapter", mode="before")
    @classmethod
    def _parse_adapters(cls, value: Any) -> Any:
        return tuple(NamedAdapter.parse(item) if isinstance(item, str) else item for item in _as_list(value))

    @field_validator("cors_origin", "allowed_hosts", mode="before")
    @classmethod
    def _parse_names(cls, value: Any) -> Any:
        return tuple(_as_list(value))

    @field_validator("cors_origin")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin not in ("*", "null") and not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin; give it as https://name or http://name:port")
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a host; give it without scheme, port and path")
        return names

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not key.get_secret_value().strip():
            raise ValueError("the key is empty; set a non-empty key or leave it out")
        return key

    def environment(self) -> dict[str, str]:
        """Return the environment variables that give another process the same settings."""
        variables = {}
        for name in self.model_fields_set:
            value = getattr(self, name)
            if value is not None:
                variables[f"SLM_{name.upper()}"] = _to_variable(value)
        return variables

    @property
    def _unnamed_adapter(self) -> str | None:
        return self.adapter_path or (self.model_path if _is_adapter_folder(self.model_path) else None)

    @property
    def default_adapter(self) -> str | None:
        """Name of the adapter that answers requests without a model name; None if the base does.

        It is the adapter of ``adapter_path``, or of a ``model_path`` that is an adapter folder.
        """
        return _folder_name(self._unnamed_adapter) if self._unnamed_adapter else None

    @property
    def adapters(self) -> dict[str, str]:
        """Folders of all adapters by name, the default adapter first. Raises StartError for a duplicate name."""
        unnamed = self._unnamed_adapter
        pairs = [(_folder_name(unnamed), unnamed)] if unnamed else []
        pairs += [(adapter.name, adapter.path) for adapter in self.adapter]
        folders = dict(pairs)
        if len(folders) < len(pairs):
            raise StartError(f"two adapters have the same name ({', '.join(name for name, _ in pairs)}); rename one")
        return folders


def unknown_variables() -> list[str]:
    """Return the environment variables with the prefix ``SLM_`` that are not settings."""
    known = {f"SLM_{name.upper()}" for name in Settings.model_fields} | FOREIGN_VARIABLES
    return sorted(name for name in os.environ if name.startswith("SLM_") and name not in known)


def _to_variable(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(f"{item.name}={item.path}" if isinstance(item, NamedAdapter) else str(item) for item in value)
    return str(value)


def _as_list(value: Any) -> list[Any]:
    """Split a string, the value of an environment variable, at commas; flags and Python give sequences."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return list(value or ())


def _is_adapter_folder(path: str) -> bool:
    return (Path(path).expanduser() / "adapter_config.json").is_file()


def _folder_name(path: str) -> str:
    return Path(path).expanduser().resolve().name
