"""What the documentation site shows: links, lists, included sections, and references that leave nothing out.

That the site can be built, without a broken link, is checked by scripts/check.
"""

from __future__ import annotations

import contextlib
import io
import re
from importlib import import_module
from pathlib import Path

import markdown
import nbformat
import pytest

from docs_site.command_pages import command_pages
from docs_site.includes import expand_includes, section
from docs_site.links import site_links
from docs_site.lists import indent_lists
from docs_site.notebook_pages import notebook_page
from docs_site.python_pages import python_pages
from slm_testing.workspace.capped_commands import run

HOST = "https://code.example/slm/blob/main/"
COMMANDS = [
    ("slm-train", ["--help_all"]),
    ("slm-train", ["dynamic", "--help_all"]),
    ("slm-adapters", ["merge", "--help"]),
    ("slm-paged", ["--help"]),
    ("slm-serve", ["--help"]),
    ("slm-bench", ["kv", "--help"]),
    ("slm-lab", ["compare", "--help"]),
]


@pytest.mark.parametrize(
    ("link", "host", "expected"),
    [
        ("[a](docs/models.md)", None, "[a](../models.md)"),
        ("[a](docs/benchmarks.md#kv-cache)", None, "[a](../benchmarks.md#kv-cache)"),
        ("[a\nb](packages/slm-kv/README.md)", None, "[a\nb](../packages/slm-kv.md)"),
        ("![a](docs/compare.png)", None, "![a](../compare.png)"),
        ("[`a`](scripts/check)", None, "`a`"),
        ("[a](scripts/check)", HOST, f"[a]({HOST}scripts/check)"),
        ("[a](missing.md)", HOST, "[a](missing.md)"),
        ("[a](https://docs.astral.sh/uv/) [b](#here)", None, "[a](https://docs.astral.sh/uv/) [b](#here)"),
        ("```bash\n[a](docs/models.md)\n```", None, "```bash\n[a](docs/models.md)\n```"),
    ],
)
def test_links_of_a_file_lead_to_the_pages_of_the_site(link: str, host: str | None, expected: str) -> None:
    assert site_links(link, source="README.md", page="how-to/page.md", repository=host) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text\n- a\n- b", "<p>text</p><ul><li>a</li><li>b</li></ul>"),
        ("- a\n  b\n\n  c", "<ul><li><p>a\n    b</p><p>c</p></li></ul>"),
        ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
        ("1. a\n\n   b\n\nc", "<ol><li><p>a</p><p>b</p></li></ol><p>c</p>"),
        ("- a\n\n```\n- b\n```", "<ul><li>a</li></ul><pre><code>- b\n</code></pre>"),
    ],
)
def test_lists_are_those_of_a_code_host(text: str, expected: str) -> None:
    rendered = markdown.markdown(indent_lists(text), extensions=["fenced_code"])
    assert re.sub(r">\n+<", "><", rendered) == expected


def test_a_section_ends_where_the_next_one_of_its_level_begins() -> None:
    text = "# T\n\n## One two\n\na\n\n### Sub\n\n```\n## code\n```\n\n## Next\n\nb"
    assert section(text, "one-two") == "a\n\n### Sub\n\n```\n## code\n```"
    with pytest.raises(ValueError, match="#three"):
        section(text, "three")


def test_an_included_section_has_the_links_of_the_page() -> None:
    included = expand_includes("<!-- include: README.md#packages -->", "how-to/page.md", None)
    assert "[slm-kv](../packages/slm-kv.md)" in included


@pytest.mark.parametrize(("program", "words"), COMMANDS, ids=lambda value: str(value))
def test_every_flag_of_a_command_is_on_its_page(program: str, words: list[str]) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        run([program, *words])
    page = command_pages()[f"reference/commands/{program}.md"]
    documented = set(re.findall(r"^`(--\S+)`|(?<=` )`(--\S+)`", page, re.MULTILINE))
    flags = {flag for pair in documented for flag in pair if flag}
    listed = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", output.getvalue(), re.MULTILINE)) - {"--help"}
    assert listed
    assert listed <= flags


def test_every_public_name_is_in_the_reference_once() -> None:
    for path, page in python_pages().items():
        package = import_module(Path(path).stem.replace("-", "_"))
        documented = re.findall(rf"^::: {package.__name__}\.(\w+)$", page, re.MULTILINE)
        assert sorted(documented) == sorted(package.__all__)


def test_a_notebook_becomes_text_code_and_outputs(tmp_path: Path) -> None:
    code = nbformat.v4.new_code_cell("print(1)", outputs=[nbformat.v4.new_output("stream", text="\x1b[1m1\x1b[0m\n")])
    cells = [nbformat.v4.new_markdown_cell("# Title\n\nWords."), code]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    title, download, *rest = notebook_page(tmp_path / "a.ipynb").split("\n\n")
    assert title == "# Title"
    assert 'href="../a.ipynb"' in download
    assert rest == ["Words.", "````python\nprint(1)\n````", "````text\n1\n````"]
