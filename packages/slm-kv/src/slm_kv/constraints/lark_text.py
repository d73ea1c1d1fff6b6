"""Grammars of all kinds as texts in llguidance's dialect of Lark."""

from __future__ import annotations

import json

from slm_kv.constraints.grammar import Grammar

# The model chooses how a text that the grammar dictates is split into tokens: nothing is tokenized again.
HEADER = '%llguidance {"no_forcing": true}\n'


def lark_text(grammar: Grammar) -> str:
    """Return a grammar of any kind but ``regex`` in Lark's syntax."""
    if grammar.kind == "lark":
        return HEADER + grammar.text
    if grammar.kind == "choice":
        return f"{HEADER}start: {' | '.join(json.dumps(choice, ensure_ascii=False) for choice in grammar.data)}"
    schema = {"type": "object"} if grammar.kind == "json_object" else grammar.data
    return f"{HEADER}start: {Grammar.schema_rule(schema)}"
