"""``Modelfile``: what Ollama needs besides the GGUF file."""

from __future__ import annotations

from typing import Any

from slm_adapters.export.ollama.chat_formats import recognise_format
from slm_adapters.export.tokens.special_tokens import SpecialTokens

MODELFILE = "Modelfile"
NO_TEMPLATE = "# The chat template is none that this program can write for Ollama, which reads it from the GGUF file."
NO_CHAT = "# The model has no chat template: it continues text."


def render_modelfile(file_name: str, tokenizer: Any, special: SpecialTokens) -> str:
    """Return the content of a Modelfile for the GGUF file ``file_name`` next to it."""
    lines = [f"FROM ./{file_name}"]
    stops = [str(tokenizer.convert_ids_to_tokens(token)) for token in special.ends]
    found = recognise_format(tokenizer)
    if found is not None:
        start = "" if special.adds_bos else found.start  # llama.cpp puts the token itself before a text
        lines.append(f'TEMPLATE """{start}{found.format.go_template}"""')
        if found.system is not None:
            lines.append(f'SYSTEM """{found.system}"""')
        stops += found.format.stops
    elif tokenizer.chat_template:
        lines.append(NO_TEMPLATE)
    else:
        lines += [NO_CHAT, 'TEMPLATE """{{ .Prompt }}"""']
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
