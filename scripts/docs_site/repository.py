"""Which file of the repository each page of the site shows."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
MEMBERS = sorted(
    (file.parent for folder in ("packages", "apps") for file in ROOT.glob(f"{folder}/*/pyproject.toml")),
    key=lambda folder: folder.name,
)


def _member_pages() -> dict[str, str]:
    pages = {}
    for folder in MEMBERS:
        inside = folder.relative_to(ROOT).as_posix()
        pages[f"packages/{folder.name}.md"] = f"{inside}/README.md"
        pages[f"changes/{folder.name}.md"] = f"{inside}/CHANGELOG.md"
    return pages


# Pages outside docs/: the path of the page in the site, and the file that it shows.
PAGES = {"contributing.md": "CONTRIBUTING.md", **_member_pages()}
_PAGE_OF = {file: page for page, file in PAGES.items()} | {"README.md": "index.md"}


def source_of(page: str) -> str:
    """Return the path in the repository of the file that ``page``, a path in the site, shows."""
    return PAGES.get(page, f"{DOCS}/{page}")


def page_of(file: str) -> str | None:
    """Return the page, or the file of docs/, that shows a path in the repository; None if the site does not have it."""
    path = PurePosixPath(file)
    if file in _PAGE_OF:
        return _PAGE_OF[file]
    if path.suffix == ".ipynb":
        path = path.with_suffix(".md")
    in_site = path.parts[:1] == (DOCS,) and (path.suffix == ".md" or (ROOT / path).is_file())
    return path.relative_to(DOCS).as_posix() if in_site else None
