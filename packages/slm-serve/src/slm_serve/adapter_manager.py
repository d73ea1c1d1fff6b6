"""Loading and unloading adapters while the server runs: what is allowed, and what clients are told."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path

from slm_serve.backends.protocol import Backend
from slm_serve.errors import AdapterRefusedError, RequestError
from slm_serve.settings import ADAPTER_NAME, Settings

logger = logging.getLogger("slm_serve")
# Absolute paths of the server in a message. The last part says enough.
PATHS = re.compile(r"(?<![\w./])(?:/[^\s/'\",;:()]+)+/([^\s/'\",;:()]+)")


class AdapterManager:
    """Loads and unloads adapters, one at a time. All methods run on the event loop.

    Args:
        get_backend: returns the backend, or raises RequestError 503.
    """

    def __init__(self, settings: Settings, get_backend: Callable[[], Backend]) -> None:
        self._settings, self._get_backend = settings, get_backend
        self._lock = asyncio.Lock()

    async def load(self, name: str, path: str, *, replace: bool) -> None:
        """Serve the adapter in the folder ``path`` as ``name``, for requests from now on.

        Args:
            path: relative to ``--adapter_root``, or an absolute path below it.
            replace: whether an adapter that has this name may be replaced.

        Raises RequestError: 403 if this is not allowed, 409 for a name that is in use, and 422 for an adapter that
        cannot be served. Nothing has changed then.
        """
        root = self._root()
        if not ADAPTER_NAME.fullmatch(name):
            raise RequestError(
                422,
                "the name is invalid: start with a letter or digit, then use letters, digits and . _ : / -",
                param="lora_name",
            )
        folder = await asyncio.to_thread(_folder_below, root, path)
        async with self._lock:
            backend = self._get_backend()
            _check_name(backend, name, replace)
            await _load(backend, name, folder, path)
        logger.info("adapter %s is loaded from %s", name, folder)

    async def unload(self, name: str) -> None:
        """Stop serving an adapter; its running and queued requests are finished.

        Raises RequestError: 403 if this is not allowed, 404 for an unknown name, and 409 for a model that must stay.
        """
        self._root()
        async with self._lock:
            backend = self._get_backend()
            model = backend.served.get(name)
            if model is None:
                message = f"The lora adapter '{name}' cannot be found."
                raise RequestError(404, message, param="lora_name", code="adapter_not_found")
            if model.kind == "base":
                raise _conflict(f"{name!r} is the base, which cannot be unloaded")
            if name == next(iter(backend.served)):
                raise _conflict(
                    f"{name!r} answers requests that name no model; replace it (load_inplace), or restart the server "
                    "without it"
                )
            await backend.unload_adapter(name)
        logger.info("adapter %s is unloaded", name)

    def _root(self) -> Path:
        """The folder below which adapters may be. Raises RequestError 403 if the server must not load any."""
        if self._settings.adapter_root is None:
            raise _forbidden("adapters are not loaded while this server runs; start it with --adapter_root")
        if self._settings.api_key is None:
            raise _forbidden("adapters are loaded only by a server with an API key; set SLM_API_KEY")
        return Path(self._settings.adapter_root).expanduser().resolve()


def _folder_below(root: Path, path: str) -> Path:
    """Return the folder of an adapter, without symbolic links in its path.

    Raises RequestError 403 for all that is not below ``root``, whether it exists or not, and 422 for a folder that does
    not exist.
    """
    try:
        folder = (root / path).resolve()
        files = list(folder.iterdir()) if _is_below(root, folder) and folder.is_dir() else []
        allowed = all(_is_below(root, file.resolve()) for file in (folder, *files))
    except (OSError, ValueError, RuntimeError):  # a path that is too long, has a NUL, or is a loop of links
        allowed = False
    if not allowed:
        raise _forbidden("lora_path must be a folder below --adapter_root")
    if not folder.is_dir():
        raise AdapterRefusedError("lora_path is not a folder below --adapter_root; check the path")
    return folder


def _is_below(root: Path, path: Path) -> bool:
    return path != root and path.is_relative_to(root)


def _check_name(backend: Backend, name: str, replace: bool) -> None:
    model = backend.served.get(name)
    if model is None:
        return
    if model.kind == "base":
        raise _conflict(f"{name!r} is the name of the base; give the adapter another one")
    if not replace:  # vLLM's message
        raise _conflict(
            f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
            "'load_inplace' to True."
        )


async def _load(backend: Backend, name: str, folder: Path, path: str) -> None:
    try:
        await backend.load_adapter(name, folder)
    except RequestError:
        raise
    except ValueError as error:
        logger.warning("adapter %s cannot be loaded from %s: %s", name, folder, error)
        raise AdapterRefusedError(without_paths(str(error).replace(str(folder), repr(path)))) from error


def without_paths(message: str) -> str:
    """Return ``message`` with the last part of each absolute path only."""
    return PATHS.sub(r"\1", message)


def _forbidden(message: str) -> RequestError:
    return RequestError(403, message, code="adapter_loading_forbidden")


def _conflict(message: str) -> RequestError:
    return RequestError(409, message, param="lora_name", code="adapter_name_in_use")
