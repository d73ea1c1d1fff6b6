"""Lookup of base models: a folder, a hub name, or a base that an installed package provides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from slm_adapters.base.gguf.file import DAMAGED_FILE, check_gguf_file, is_gguf_path
from slm_adapters.base.hub_errors import probe_hub
from slm_adapters.base.model_folder import ModelFolder, read_model_folder
from slm_adapters.errors import AdapterError

FULL_NAMES = {"distilgpt2": "distilbert/distilgpt2", "gpt2": "openai-community/gpt2"}
ENTRY_POINT_GROUP = "slm_adapters.bases"  # name of a base, and a function that returns its folder
PROVIDERS = {"sample": "slm-data"}  # built-in bases, and the package that provides each

DAMAGED_FOLDER = "its files are damaged or not those of a model; copy it again or give another folder"
NOT_ON_THE_HUB = "it is not a local folder either: check the name, try again later, or give a folder"


@dataclass(frozen=True)
class BaseLocation:
    """The name of a base model, and where transformers finds it: a folder, a GGUF file or a repository on the hub.

    ``is_portable``: whether the name means the same model on every machine; the path of a folder does not.
    """

    name: str
    location: str
    folder: ModelFolder | None  # None: on the hub, or in a GGUF file
    is_portable: bool
    revision: str | None = None
    hub_error: Exception | None = None  # why the hub does not serve it; only the local cache is searched then
    gguf_file: str | None = None  # a file in the folder ``location`` that has configuration, tokenizer and weights

    @property
    def is_on_hub(self) -> bool:
        """Whether it is a repository on the hub, neither a folder nor a GGUF file."""
        return self.folder is None and self.gguf_file is None

    @property
    def from_pretrained_options(self) -> dict[str, Any]:
        """Keyword arguments for ``from_pretrained`` besides the location."""
        if self.gguf_file:
            return {"gguf_file": self.gguf_file, "local_files_only": True}
        options: dict[str, Any] = {"revision": self.revision} if self.revision else {}
        return options | {"local_files_only": True} if self.hub_error else options

    @property
    def remedy(self) -> str:
        """The end of an error message: what the user can do if the base cannot be loaded."""
        if self.gguf_file:
            return DAMAGED_FILE
        return DAMAGED_FOLDER if self.folder else NOT_ON_THE_HUB


def find_base(name: str | Path) -> BaseLocation:
    """Return the location of the base called ``name``, without a request to the hub.

    Raises AdapterError for a folder that is missing or not a complete model, and for a base whose package is not
    installed.
    """
    if name in PROVIDERS or name in installed_bases():
        folder = _installed_folder(str(name))
        return BaseLocation(str(name), str(folder), read_model_folder(folder), is_portable=True)
    path = Path(name).expanduser()
    if is_gguf_path(path) and not path.is_dir():
        check_gguf_file(path)
        return BaseLocation(str(name), str(path.parent), None, is_portable=False, gguf_file=path.name)
    if path.is_dir() or _is_path(name):
        model_folder = read_model_folder(name)
        if model_folder.holds_adapter:
            raise AdapterError(f"{name} holds an adapter, not a base model; give the model that it was trained on")
        return BaseLocation(str(name), str(path), model_folder, is_portable=False)
    return BaseLocation(full_name(str(name)), full_name(str(name)), None, is_portable=True)


def probe_base(base: BaseLocation) -> BaseLocation:
    """Return ``base`` with ``hub_error`` set if it is on the hub and the hub does not serve it."""
    return base if base.folder or base.gguf_file else replace(base, hub_error=probe_hub(base.location))


def recorded_base(adapter: ModelFolder) -> str | None:
    """Return the name of the base in adapter_config.json, if it has one."""
    return adapter.config.get("base_model_name_or_path") or None


def find_recorded_base(adapter: ModelFolder) -> BaseLocation:
    """Return the location of the base that the adapter names. Raises AdapterError if it names none or it is missing."""
    name = recorded_base(adapter)
    if name is None:
        raise AdapterError(f"the adapter in {adapter.path} does not say what its base is; give the base model too")
    try:
        base = find_base(name)
    except AdapterError as error:
        raise AdapterError(
            f"the adapter in {adapter.path} was trained on {name!r}: {error}, or give the base model too"
        ) from error
    return _at_revision(base, adapter)


def find_base_for(name: str | Path, adapter: ModelFolder) -> BaseLocation:
    """Return the location of ``name``, the base that the user chose for ``adapter``.

    A folder is accepted as it is: whether the adapter fits is checked when it is loaded. Any other name must be the one
    that the adapter records, or AdapterError is raised.
    """
    base, recorded = find_base(name), recorded_base(adapter)
    if recorded is None or not base.is_portable or _is_path(recorded) or _is_local_folder(recorded):
        return base
    if base.name != full_name(recorded):
        raise AdapterError(
            f"the adapter in {adapter.path} was trained on {recorded!r}, not on {str(name)!r}; "
            f"give {recorded!r}, or a folder with the same model"
        )
    return _at_revision(base, adapter)


def full_name(name: str) -> str:
    """Return the hub's full name for a short one, and any other name unchanged."""
    return FULL_NAMES.get(name, name)


def installed_bases() -> set[str]:
    """Return the names of the bases that installed packages provide."""
    return {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}


def _installed_folder(name: str) -> Path:
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return Path(point.load()())
    raise AdapterError(f"base {name!r} is the built-in model of {PROVIDERS[name]}; install {PROVIDERS[name]}")


def _at_revision(base: BaseLocation, adapter: ModelFolder) -> BaseLocation:
    return base if base.folder or base.gguf_file else replace(base, revision=adapter.config.get("revision"))


def _is_local_folder(name: str) -> bool:
    return name not in PROVIDERS and Path(name).expanduser().is_dir()


def _is_path(name: str | Path) -> bool:
    """Whether ``name`` must be a path: names on the hub have the form NAME or OWNER/NAME."""
    text = str(name)
    return isinstance(name, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text
