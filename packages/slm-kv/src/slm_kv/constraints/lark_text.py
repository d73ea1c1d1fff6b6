"""Grammars of all kinds as texts in llguidance's dialect of Lark."""

from __future__ import annotations

import json

from slm_kv.constraints.grammar import Grammar


def lark_text(grammar: Grammar) -> str:
    """Return a grammar of any kind but ``regex`` in Lark's syntax."""
    if grammar.kind == "lark":
        return grammar.text
    if grammar.kind == "choice":
        # A terminal: as alternatives of a rule, more than 2,000 choices exceed a limit of the parser.
        return f"start: CHOICE\nCHOICE: {' | '.join(json.dumps(choice, ensure_ascii=False) for choice in grammar.data)}"
    schema = {"type": "object"} if grammar.kind == "json_object" else grammar.data
    return f"start: {Grammar.schema_rule(schema)}"
