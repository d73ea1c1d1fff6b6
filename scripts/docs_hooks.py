"""Hooks of mkdocs: add the pages that are not files in docs/, and adapt Markdown written for a code host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mkdocs.structure.files import File

from docs_site.command_pages import command_pages
from docs_site.includes import expand_includes
from docs_site.links import site_links
from docs_site.lists import indent_lists
from docs_site.notebook_pages import notebook_page
from docs_site.python_pages import python_pages
from docs_site.repository import PAGES, ROOT, source_of

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add READMEs, changes, references and notebooks."""
    pages = {page: (ROOT / file).read_text() for page, file in PAGES.items()}
    pages |= command_pages() | python_pages()
    for file in list(files):
        if file.src_uri.endswith(".ipynb") and file.abs_src_path:
            pages[file.src_uri.removesuffix(".ipynb") + ".md"] = notebook_page(ROOT / file.abs_src_path)
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Expand includes, adapt links, and indent lists."""
    name = page.file.src_uri
    if name.startswith("reference/"):  # written for the site
        return markdown
    text = site_links(markdown, source_of(name), name, config.repo_url)
    return indent_lists(expand_includes(text, name, config.repo_url))
