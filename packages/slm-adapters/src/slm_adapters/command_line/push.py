"""``slm-adapters push``: upload a folder to the hub, after a list of what is uploaded."""

from __future__ import annotations

import argparse
from pathlib import Path

from slm_adapters.base.base_lookup import full_name
from slm_adapters.cards.base_names import hub_id
from slm_adapters.errors import AdapterError
from slm_adapters.publishing.files import Publication, read_publication
from slm_adapters.publishing.repository import Repository, upload


def run_push(options: argparse.Namespace) -> int:
    """List the files of ``options.folder`` and upload them, unless it is a dry run; return the exit code."""
    repository = Repository(options.repository, private=options.private, revision=options.revision)
    base = full_name(options.base) if options.base else None
    if base and not hub_id(base):
        raise AdapterError(f"--base {base!r} is not an id on the hub; give OWNER/NAME")
    publication = read_publication(options.folder, base, options.license)
    _print_list(publication, repository, options.folder)
    if options.dry_run:
        print("dry run: nothing was uploaded")
        return 0
    message = options.message or f"Upload {options.folder.resolve().name} with slm-adapters"
    print(f"uploaded: {upload(publication.files, repository, message)}")
    return 0


def _print_list(publication: Publication, repository: Repository, folder: Path) -> None:
    where = f"{repository.name}, branch {repository.revision}" if repository.revision else repository.name
    print(f"{folder} to {where}{' (private)' if repository.private else ''}:")
    width = max(len(file.name) for file in publication.files)
    for file in publication.files:
        print(f"  {file.name:<{width}}  {_size(file.size):>9}  {file.change}".rstrip())
    if publication.left_out:
        print(f"left out: {', '.join(publication.left_out)}")
    base = publication.base
    if base and base.kind == "local":
        print(f"the base, {base.name}, is a local model, so that no base is recorded; name it with --base OWNER/NAME")


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
