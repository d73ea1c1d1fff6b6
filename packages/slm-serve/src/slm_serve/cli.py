"""The ``slm-serve`` command: flags from the settings, then the server.

No heavy library is imported here: torch and transformers are imported after the flags are validated.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from dotenv import load_dotenv
from pydantic import ValidationError

from slm_adapters import add_completion, end_with_output
from slm_serve import __version__
from slm_serve.errors import StartError
from slm_serve.http.validation_errors import sentence, with_subject
from slm_serve.settings import Settings

DESCRIPTION = (
    "Serve a base model and its adapters over HTTP: POST /generate, an OpenAI-compatible API under /v1, and a "
    "playground at /."
)
METAVARS = {"adapter": "NAME=PATH", "cors_origin": "ORIGIN", "allowed_hosts": "NAME"}  # of flags that may be repeated
EPILOG = """\
Each flag can also be set as an environment variable: SLM_MODEL_PATH, SLM_API_KEY, ... Flags take precedence.

examples:
  slm-serve --model_path outputs/lora                       an adapter trained by slm-train, and its base
  slm-serve --model_path distilgpt2 --adapter red=outputs/lora --adapter blue=outputs/butterfly
  slm-serve --backend vllm --model_path outputs/butterfly   merged first, because vLLM cannot load it"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-serve`` with ``argv`` (default: ``sys.argv``) and return the exit code."""
    return end_with_output(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    flags = vars(_parser().parse_args(argv))
    reload, env_file, secrets = (flags.pop(name, None) for name in ("reload", "env_file", "secrets_dir"))
    if env_file and not load_dotenv(env_file):
        return _fail(f"env_file: {env_file} does not exist or sets no variables; give another file")
    if secrets and (fault := _secrets_fault(Path(secrets))):
        return _fail(f"secrets_dir: {fault}")
    try:
        settings = Settings(_secrets_dir=secrets, **flags)
        _ = settings.adapters  # checks for duplicate names
    except ValidationError as error:
        return _fail(_first_error(error))
    except ValueError as error:
        return _fail(str(error))
    from slm_serve.server import serve, serve_reloading

    try:
        return serve_reloading(settings) if reload else serve(settings)
    except StartError as error:
        return _fail(str(error))


def _secrets_fault(folder: Path) -> str | None:
    """Return why no setting can be read from ``folder``: a server that misses its key would serve anyone."""
    if not folder.is_dir():
        return f"{folder} is not a folder; give the one with files such as slm_api_key"
    names = {f"slm_{name}" for name in Settings.model_fields}
    files = [file for file in folder.iterdir() if file.name.lower() in names]
    if not files:
        return f"{folder} has no file named like a variable, such as slm_api_key; add one, or leave --secrets_dir out"
    unreadable = [file for file in files if not os.access(file, os.R_OK)]
    return f"{unreadable[0]} cannot be read; allow it to the user of the server" if unreadable else None


def _fail(message: str) -> int:
    print(f"slm-serve: {message}", file=sys.stderr)
    return 2


def _first_error(error: ValidationError) -> str:
    """Return the first of pydantic's errors as one line, with the name of the flag."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    return with_subject(name, sentence(first, shows_text=name != "api_key"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slm-serve",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # A flag that was not given is absent, so that Settings takes the environment variable or the default.
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    add_completion(parser)
    for name, field in Settings.model_fields.items():
        options: dict[str, Any] = {"help": _help(field.description or "", field.default)}
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(field.default, tuple):
            options |= {"action": "append", "metavar": METAVARS[name]}
        elif choices := [value for value in get_args(field.annotation) if isinstance(value, str)]:
            options["choices"] = choices
        elif name == "weights_text":
            options["metavar"] = "FILE"
        parser.add_argument(f"--{name}", **options)
    parser.add_argument("--env_file", help="file of environment variables, one NAME=VALUE per line")
    parser.add_argument(
        "--secrets_dir", help="folder of files named like the variables, such as slm_api_key: Docker's /run/secrets"
    )
    parser.add_argument("--reload", action="store_true", help="for development: restart when a source file changes")
    return parser


def _help(description: str, default: Any) -> str:
    text = description if default in (None, (), False) else f"{description} (default: {default})"
    return text.replace("%", "%%")  # argparse applies % formatting to help texts


if __name__ == "__main__":
    sys.exit(main())
