"""Grammars of all kinds as texts in llguidance's dialect of Lark."""

from __future__ import annotations

import json
from typing import Any

from slm_kv.constraints.grammar import Grammar

# The model chooses how a text that the grammar dictates is split into tokens: nothing is tokenized again.
HEADER = '%llguidance {"no_forcing": true}\n'
# Options of llguidance. Unsupported keywords are errors. Whitespace is bounded as in llama.cpp: a model that is unsure
# may otherwise write spaces up to its last token.
SCHEMA_OPTIONS: dict[str, Any] = {"lenient": False, "whitespace_pattern": r" |\n[ \t]{0,20}"}


def lark_text(grammar: Grammar) -> str:
    """Return a grammar of any kind but ``regex`` in Lark's syntax."""
    if grammar.kind == "lark":
        return HEADER + grammar.text
    if grammar.kind == "choice":
        return f"{HEADER}start: {' | '.join(json.dumps(choice, ensure_ascii=False) for choice in grammar.data)}"
    schema = {"type": "object"} if grammar.kind == "json_object" else grammar.data
    if schema is not False:
        schema = ({} if schema is True else schema) | {"x-guidance": SCHEMA_OPTIONS}
    return f"{HEADER}start: %json {json.dumps(schema, ensure_ascii=False)}"
