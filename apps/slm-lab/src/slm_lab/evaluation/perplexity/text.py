"""The text of ``--perplexity``: WikiText-2 as the literature reads it, or a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from slm_data import split_texts
from slm_lab.errors import LabError
from slm_lab.evaluation.perplexity.sliding_window import Text

WIKITEXT2 = "wikitext2"


def read_text(source: str) -> Text:
    """Return the raw test split of WikiText-2, its rows joined with two line breaks, or the text of a file.

    Raises:
        LabError: The file does not exist or is not text.
        DataError: The hub has no WikiText-2.
    """
    if source.lower() == WIKITEXT2:
        return _text(WIKITEXT2, "\n\n".join(split_texts(WIKITEXT2, "test")))
    path = Path(source).expanduser()
    try:
        return _text(path.name, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise LabError(f"--perplexity {source} is not UTF-8 text; convert it") from error
    except OSError as error:
        raise LabError(
            f"--perplexity {source} cannot be read ({error.strerror}); give {WIKITEXT2} or a text file"
        ) from error


def _text(name: str, content: str) -> Text:
    if not content.strip():
        raise LabError(f"--perplexity {name} has no text; give another file")
    return Text(name, content, hashlib.blake2b(content.encode(), digest_size=8).hexdigest())
