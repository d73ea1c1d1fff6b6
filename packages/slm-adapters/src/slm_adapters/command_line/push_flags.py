"""Help and flags of ``slm-adapters push``; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Upload a run folder, an adapter, a model or a folder with GGUF files to a model repository of the Hugging Face hub, with
its model card. Weights, configuration, tokenizer, README.md, run.json and metrics.jsonl are uploaded, in one commit;
checkpoints, optimizer states, logs and any other files are not. Paths of this machine are removed from what is
uploaded; the folder is not changed. The token is that of 'hf auth login' or of the variable HF_TOKEN."""
EXAMPLES = """\
examples:
  slm-adapters push outputs/lora me/stories-lora --dry_run      (lists the files; needs no token and no network)
  slm-adapters push outputs/lora me/stories-lora --private
  slm-adapters push outputs/merged me/stories --license apache-2.0 --revision v2

exit codes: 0 uploaded; 2 refused, nothing changed in the repository"""


def add_push_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder of a run, an adapter, a model or GGUF files"
    )
    parser.add_argument("repository", metavar="OWNER/NAME", help="model repository; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create it as a private repository")
    parser.add_argument("--revision", metavar="BRANCH", help="branch; created if it does not exist. Default: main")
    parser.add_argument("--message", metavar="TEXT", help="message of the commit")
    parser.add_argument("--base", metavar="ID", help="id of the base on the hub, if it was loaded from a local folder")
    parser.add_argument("--license", metavar="ID", help="licence for the model card, such as apache-2.0")
    parser.add_argument("--dry_run", action="store_true", help="list the files and upload nothing")
