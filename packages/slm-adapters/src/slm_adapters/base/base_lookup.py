"""BaseLocation models by name: a folder, a hub name, or a base that an installed package brings along."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from slm_adapters.base.hub_errors import probe_hub
from slm_adapters.base.model_folder import ModelFolder, read_model_folder
from slm_adapters.errors import AdapterError

FULL_NAMES = {"distilgpt2": "distilbert/distilgpt2", "gpt2": "openai-community/gpt2"}
GROUP = "slm_adapters.base.base_lookup"  # entry points: the base's name, and a function that returns its folder
PACKAGES = {"sample": "slm-data"}  # who brings which, to be named where it is not installed

DAMAGED = "the files in it are damaged or not a model's; copy it again or give another"
ON_THE_HUB = "it is no folder here either: check the name, try again later, or give a folder"


@dataclass(frozen=True)
class BaseLocation:
    """A base model by its name, and where transformers finds it: a folder or a repository of the hub.

    ``is_portable``: the name means the same on every machine; a folder's does not."""

    name: str
    location: str
    folder: ModelFolder | None  # None: on the hub
    is_portable: bool
    revision: str | None = None
    hub_error: Exception | None = None  # why the hub does not give it; only the cache is looked at then

    @property
    def from_pretrained_options(self) -> dict[str, Any]:
        """What ``from_pretrained`` needs besides the location."""
        found: dict[str, Any] = {"revision": self.revision} if self.revision else {}
        return found | {"local_files_only": True} if self.hub_error else found

    @property
    def remedy(self) -> str:
        """What to do where it cannot be loaded."""
        return DAMAGED if self.folder else ON_THE_HUB


def full_name(name: str) -> str:
    """The hub's full name for a short one; any other as it is."""
    return FULL_NAMES.get(name, name)


def find_base(name: str | Path) -> BaseLocation:
    """Where the base called ``name`` lies. Asks no hub.

    Raises AdapterError for a folder that is missing or holds no whole model, and for a base of a package that is
    not installed.
    """
    if name in PACKAGES or name in installed_bases():
        folder = _installed_folder(str(name))
        return BaseLocation(str(name), str(folder), read_model_folder(folder), is_portable=True)
    path = Path(name).expanduser()
    if path.is_dir() or _means_a_path(name):
        found = read_model_folder(name)
        if found.holds_adapter:
            raise AdapterError(f"{name} holds an adapter, not a base model; give the model that it was trained on")
        return BaseLocation(str(name), str(path), found, is_portable=False)
    return BaseLocation(full_name(str(name)), full_name(str(name)), None, is_portable=True)


def probe_base(base: BaseLocation) -> BaseLocation:
    """``base``, and whether the hub gives it, where it is to come from there."""
    return base if base.folder else replace(base, hub_error=probe_hub(base.location))


def base_of(adapter: ModelFolder) -> BaseLocation:
    """The base that an adapter names as its own."""
    name = recorded_base(adapter)
    if name is None:
        raise AdapterError(f"the adapter in {adapter.path} does not say what its base is; give the base model too")
    try:
        base = find_base(name)
    except AdapterError as refused:
        raise AdapterError(
            f"the adapter in {adapter.path} was trained on {name!r}: {refused}, or give the base model too"
        ) from refused
    return _at_revision(base, adapter)


def base_for(name: str | Path, adapter: ModelFolder) -> BaseLocation:
    """The base that the user names for an adapter. A folder may be any, and has to fit; another *name* than the
    adapter's own is a mistake: AdapterError."""
    base, recorded = find_base(name), recorded_base(adapter)
    if recorded is None or not base.is_portable or _means_a_path(recorded) or _is_plain_folder(recorded):
        return base
    if base.name != full_name(recorded):
        raise AdapterError(
            f"the adapter in {adapter.path} was trained on {recorded!r}, not on {str(name)!r}; "
            f"give {recorded!r}, or a folder with the same model"
        )
    return _at_revision(base, adapter)


def recorded_base(adapter: ModelFolder) -> str | None:
    """What adapter_config.json says the base is."""
    return adapter.config.get("base_model_name_or_path") or None


def installed_bases() -> set[str]:
    """Names of the bases that installed packages bring along."""
    return {point.name for point in entry_points(group=GROUP)}


def _installed_folder(name: str) -> Path:
    for point in entry_points(group=GROUP, name=name):
        return Path(point.load()())
    raise AdapterError(f"base {name!r} is the built-in model of {PACKAGES[name]}; install {PACKAGES[name]}")


def _at_revision(base: BaseLocation, adapter: ModelFolder) -> BaseLocation:
    return base if base.folder else replace(base, revision=adapter.config.get("revision"))


def _is_plain_folder(name: str) -> bool:
    return name not in PACKAGES and Path(name).expanduser().is_dir()


def _means_a_path(name: str | Path) -> bool:
    """Whether ``name`` can be no name of the hub: those are NAME or OWNER/NAME."""
    text = str(name)
    return isinstance(name, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text
