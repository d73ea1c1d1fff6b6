"""``slm-adapters inspect``: the contents of a folder as text or JSON."""

from __future__ import annotations

import argparse
import json

from slm_adapters.base.log_filters import quiet_transformers
from slm_adapters.base.model_folder import read_model_folder
from slm_adapters.inspection.description import describe
from slm_adapters.inspection.text import as_text


def run_inspect(options: argparse.Namespace) -> int:
    """Print the description of ``options.folder`` and return the exit code."""
    quiet_transformers()
    description = describe(read_model_folder(options.folder))
    print(json.dumps(description, indent=2) if options.json else as_text(description))
    return 0
