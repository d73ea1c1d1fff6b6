"""The files of the playground page: what they contain and how they are served."""

import re
from html.parser import HTMLParser

import pytest

from slm_testing.serve.running_server import RunningServer
from slm_testing.serve.stub_server import CSP, PAGE_FOLDER

FILES = sorted(path for path in PAGE_FOLDER.rglob("*") if path.is_file())


class Tags(HTMLParser):
    """The tags of an HTML page with their attributes, and the text of its inline scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inline += data


def test_the_page_refers_only_to_files_in_its_folder() -> None:
    tags = Tags((PAGE_FOLDER / "index.html").read_text()).tags
    addresses = {attributes[key] for _, attributes in tags for key in ("src", "href", "action") if key in attributes}
    assert {"static/icon.svg", "static/playground.js"} < addresses
    assert all((PAGE_FOLDER / str(address).removeprefix("static/")).is_file() for address in addresses)
    assert all(str(address).startswith("static/") for address in addresses)


def test_the_page_contains_no_inline_script_style_or_handler() -> None:
    tags = Tags((PAGE_FOLDER / "index.html").read_text())
    assert tags.inline.strip() == ""
    assert not [key for _, attributes in tags.tags for key in attributes if key == "style" or key.startswith("on")]


def test_no_file_of_the_page_contains_a_foreign_address_or_writes_markup() -> None:
    namespace = 'xmlns="http://www.w3.org/2000/svg"'
    for path in FILES:
        text = path.read_text().replace(namespace, "")
        assert not re.search(r"https?://|url\(|@import|innerHTML|outerHTML|insertAdjacentHTML|eval\(", text), path.name


def test_modules_import_only_files_of_the_page() -> None:
    for path in FILES:
        imports = re.findall(r'from "([^"]+)"', path.read_text()) if path.suffix == ".js" else []
        assert all((path.parent / name).is_file() for name in imports), path.name


def test_files_are_short() -> None:
    assert {path.name: lines for path in FILES if (lines := path.read_text().count("\n")) >= 300} == {}


@pytest.mark.parametrize("path", ["/", "/static/playground.js", "/static/chat/chat.js", "/static/styles/theme.css"])
def test_every_file_has_the_content_security_policy_and_is_revalidated(server: RunningServer, path: str) -> None:
    response = server.get(path)
    assert response.headers["content-security-policy"] == CSP
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    if path != "/":
        assert server.get(path, headers={"If-None-Match": response.headers["etag"]}).status_code == 304
