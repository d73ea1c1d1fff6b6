"""``slm-serve``: the server from the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, get_args

from dotenv import load_dotenv
from pydantic import ValidationError

from slm_serve.settings import Settings

ABOUT = "Serve a base model and its adapters over HTTP: /generate, OpenAI's /v1, a playground at /."
MORE = """\
each flag may be a variable instead: SLM_MODEL_PATH, SLM_API_KEY, ...; a flag wins.

examples:
  slm-serve --model_path outputs/lora                       an adapter of slm-train, its base beside it
  slm-serve --model_path distilgpt2 --adapter red=outputs/lora --adapter blue=outputs/butterfly
  slm-serve --backend vllm --model_path outputs/butterfly   merged first, for vLLM cannot load it"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-serve`` with ``argv`` (the process's own by default); returns the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    given = vars(_parser().parse_args(argv))
    reload, env_file = given.pop("reload", False), given.pop("env_file", None)
    if env_file and not load_dotenv(env_file):
        return _refused(f"env_file: {env_file} is no file with variables; give another")
    try:
        settings = Settings(**given)
        _ = settings.adapters
    except ValidationError as mistake:
        return _refused(_sentence(mistake))
    except ValueError as mistake:
        return _refused(str(mistake))
    from slm_serve.server import serve, serve_reloading

    return serve_reloading(settings) if reload else serve(settings)


def _refused(sentence: str) -> int:
    print(f"slm-serve: {sentence}", file=sys.stderr)
    return 2


def _sentence(mistake: ValidationError) -> str:
    """The first of what pydantic found, by the name that the user gave it."""
    first = mistake.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    return f"{name}: {str(first['msg']).removeprefix('Value error, ')}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slm-serve",
        description=ABOUT,
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # what is not given comes from the environment, or is the default
    )
    for name, field in Settings.model_fields.items():
        options: dict[str, Any] = {"help": _help(field.description or "", field.default)}
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(field.default, tuple):
            options |= {"action": "append", "metavar": "NAME=PATH" if name == "adapter" else "ORIGIN"}
        elif choices := [one for one in get_args(field.annotation) if isinstance(one, str)]:
            options["choices"] = choices
        parser.add_argument(f"--{name}", **options)
    parser.add_argument("--env_file", help="a file of such variables, one a line")
    parser.add_argument("--reload", action="store_true", help="start anew when a file of the code changes")
    return parser


def _help(text: str, default: Any) -> str:
    return text if default in (None, (), False) else f"{text} (default: {default})"


if __name__ == "__main__":
    sys.exit(main())
