"""llguidance's messages in one sentence each, naming the keyword of a schema."""

from __future__ import annotations

import re

NAMES = {
    "json_schema": "the JSON schema",
    "json_object": "the grammar of JSON objects",
    "regex": "the regular expression",
    "choice": "the list of choices",
    "lark": "the grammar",
}
# Where a message begins: "at 2(8): failed to compile JSON schema: ", 'invalid regex "x" (in regex): '.
_PREFIX = re.compile(r'(at )?\d+\(\d+\): |failed to compile JSON schema: |invalid regex ".*?" \(in regex\): ', re.S)
# The lines of the grammar around an error, and the state of the parser.
_LISTING = re.compile(r"\n\s*\d+ \| .*|<state>.*|<non-verbose/>", re.S)
_REWRITTEN = [
    (r"Unimplemented keys: \[(?P<keys>.*)\]", r"has keywords that are not supported: \g<keys>"),
    (r"oneOf constraints are not supported.*", "has a oneOf whose alternatives may overlap; use anyOf"),
    (r"Unknown format: (?P<name>.*)", r"has a format that is not supported: \g<name>"),
    (r"Resource '(?P<uri>[^']*)' is not present.*", r"has a $ref to another document, which is not supported: \g<uri>"),
    (r"Pointer '(?P<pointer>[^']*)' does not exist", r"has a $ref to #\g<pointer>, which does not exist"),
    (r"Unsatisfiable schema: (?P<why>.*)", r"cannot be satisfied: \g<why>"),
    (r"regex parse error:.*error: (?P<why>.*)", r"has a pattern that is not supported: \g<why>"),
    (r"min/maxProperties only.*", "has minProperties or maxProperties, which needs all properties to be required"),
    (r"NoExtension.*", "cannot be satisfied: no token of the vocabulary continues its text"),
    (r"(Parser|Lexer)TooComplex.*|(lexer|parser) error: .*[Tt]oo (many|complex).*", "is too complex; simplify it"),
    (r"lookarounds not supported yet.*", "has an anchor or look-around inside, which is not supported"),
]


def reason(kind: str, message: str) -> str:
    """Return a sentence for a message of llguidance about a grammar of ``kind``."""
    text = _LISTING.sub("", message)
    while match := _PREFIX.match(text):
        text = text[match.end() :]
    text = " ".join(text.split())
    for pattern, rewritten in _REWRITTEN:
        if match := re.fullmatch(pattern, text):
            return f"{NAMES[kind]} {match.expand(rewritten)}".replace('"', "")
    return f"{NAMES[kind]} cannot be used: {text}"
