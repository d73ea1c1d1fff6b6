"""What a server is told: by flags, by the environment (``SLM_MODEL_PATH`` and so on), or in Python."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

OF_OTHERS = {"SLM_CACHE"}  # slm-data's
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
Count = Annotated[int, Field(ge=1)]


class NamedAdapter(BaseModel):
    """An adapter's folder, and the name that clients ask for."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: str

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name: use letters, digits, and . _ : / - between them")
        return name

    @classmethod
    def parsed(cls, text: str) -> NamedAdapter:
        """From ``name=path``."""
        name, equals, path = text.partition("=")
        if not (equals and name and path):
            raise ValueError(f"{text!r} is not name=path")
        return cls(name=name.strip(), path=path.strip())


class Settings(BaseSettings):
    """How to serve what. Each is a flag of ``slm-serve`` and, in capitals after ``SLM_``, a variable."""

    model_config = SettingsConfigDict(env_prefix="SLM_", frozen=True, extra="forbid", hide_input_in_errors=True)

    model_path: str = Field("sample", description="a folder, a name of the hub, or sample: the built-in base")
    adapter_path: str | None = Field(None, description="an adapter's folder, served by the folder's name")
    adapter: Annotated[tuple[NamedAdapter, ...], NoDecode] = Field(
        (), description="name=path: an adapter and the name it is served by; again for more"
    )
    served_model_name: str | None = Field(None, description="what clients call the base; its own name if not given")
    backend: Literal["engine", "vllm"] = Field("engine", description="what generates: slm-kv's engine, or vLLM")
    merged_path: str | None = Field(
        None, description="where --backend vllm keeps merged models; a folder of the user's cache if not given"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of weights, keys and values")
    device: str | None = Field(None, description="cpu or cuda; cuda where there is one if not given")
    threads: Count | None = Field(None, description="threads of the CPU; the fastest of a short probe if not given")
    int8: str | None = Field(
        None, description="linear layers in 8 bits, on a CPU, if perplexity on this text file rises by 1 %% at most"
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one")
    api_key: SecretStr | None = Field(None, description="asked of every request but health; better in SLM_API_KEY")
    cors_origin: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="an origin whose pages may call this server; again for more"
    )

    page_size: Count = Field(16, description="tokens a page of the key-value cache holds")
    max_pages: Count = Field(512, description="pages of the pool; made at the start, never grown")
    max_sequences: Count = Field(16, description="texts generated side by side")
    max_step_tokens: Count = Field(256, description="tokens computed in one step, prompts and new ones together")

    stream_interval: float = Field(
        0.02, ge=0, description="seconds between two pieces of a stream: tokens that come sooner go together"
    )

    max_queue: int = Field(64, ge=0, description="texts that may wait for their turn; more get 429")
    max_prompt_tokens: Count | None = Field(None, description="longest prompt; what the model can read if not given")
    max_new_tokens: Count | None = Field(None, description="most new tokens that a request may ask for")
    request_timeout: float = Field(120, gt=0, description="seconds after which a request gets 504")
    drain_timeout: float = Field(30, ge=0, description="seconds that running requests have after SIGTERM")
    max_body_bytes: Count = Field(1_000_000, description="larger bodies get 413")
    log_prompts: bool = Field(False, description="write prompts and texts into the log")

    @field_validator("adapter", mode="before")
    @classmethod
    def _adapters(cls, given: Any) -> Any:
        return tuple(NamedAdapter.parsed(one) if isinstance(one, str) else one for one in _listed(given))

    @field_validator("cors_origin", mode="before")
    @classmethod
    def _origins(cls, given: Any) -> Any:
        return tuple(_listed(given))

    @field_validator("api_key")
    @classmethod
    def _not_empty(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not key.get_secret_value().strip():
            raise ValueError("is empty; leave it out, or give one")
        return key

    def environment(self) -> dict[str, str]:
        """The variables that say the same to another process."""
        found = {}
        for name in self.model_fields_set:
            value = getattr(self, name)
            if value is not None:
                found[f"SLM_{name.upper()}"] = _written(value)
        return found

    @property
    def _alone(self) -> str | None:
        return self.adapter_path or (self.model_path if _holds_adapter(self.model_path) else None)

    @property
    def default_adapter(self) -> str | None:
        """What answers where a request names no model: the adapter that was given without a name; None is the base."""
        return _folder_name(self._alone) if self._alone else None

    @property
    def adapters(self) -> dict[str, str]:
        """Folders of all adapters by name, that of ``adapter_path``, or of a ``model_path`` which is one, first.

        Raises ValueError for a name twice.
        """
        alone = self._alone
        pairs = [(_folder_name(alone), alone)] if alone else []
        pairs += [(one.name, one.path) for one in self.adapter]
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"two adapters have one name ({', '.join(name for name, _ in pairs)}); rename one")
        return found


def unknown_variables() -> list[str]:
    """Variables of the environment that look like settings and are none."""
    known = {f"SLM_{name.upper()}" for name in Settings.model_fields} | OF_OTHERS
    return sorted(name for name in os.environ if name.startswith("SLM_") and name not in known)


def _written(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(f"{one.name}={one.path}" if isinstance(one, NamedAdapter) else str(one) for one in value)
    return str(value)


def _listed(given: Any) -> list[Any]:
    """An environment variable has its items parted by commas."""
    if isinstance(given, str):
        return [item.strip() for item in given.split(",") if item.strip()]
    return list(given or ())


def _holds_adapter(path: str) -> bool:
    return (Path(path).expanduser() / "adapter_config.json").is_file()


def _folder_name(path: str) -> str:
    return Path(path).expanduser().resolve().name
