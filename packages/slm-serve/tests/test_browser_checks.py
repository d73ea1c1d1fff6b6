"""Checks of Host and Origin: pages of other sites cannot use a server on this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_testing.serve.raw_http import exchange
from slm_testing.serve.running_server import RunningServer, running_server

BODY = {"prompt": "a", "max_new_tokens": 1}
PAGE = "https://page.example"


@pytest.fixture(scope="module")
def open_server(tiny_model: Path) -> Iterator[RunningServer]:
    """A server that allows pages of one origin, and two names."""
    names: dict[str, Any] = {"allowed_hosts": ["api.example", "*.sub.example"], "cors_origin": [PAGE]}
    with running_server(model_path=str(tiny_model), **names) as running:
        yield running


def port_of(server: RunningServer) -> str:
    return server.url.rpartition(":")[2]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "[::1]", "localhost:1", "[::1]:8000"])
def test_names_of_this_machine_are_allowed(limited_server: RunningServer, host: str) -> None:
    assert limited_server.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "127.0.0.2", "[::2]", "", "a:b:c"]
)
def test_a_page_whose_name_resolves_to_this_machine_gets_421(limited_server: RunningServer, host: str) -> None:
    response = limited_server.post("/v1/completions", {"prompt": "a"}, headers={"Host": host})
    assert response.status_code == 421
    assert "--allowed_hosts" in response.json()["error"]["message"]
    assert limited_server.get("/health/ready", headers={"Host": host}).status_code == 200


def test_names_can_be_allowed(open_server: RunningServer) -> None:
    hosts = ("api.example", "API.example:8000", "a.b.sub.example", "localhost")
    assert {open_server.get("/v1/models", headers={"Host": host}).status_code for host in hosts} == {200}
    others = ("sub.example", "other.example", "evil-api.example", "x.api.example")
    assert {open_server.get("/v1/models", headers={"Host": host}).status_code for host in others} == {421}


def test_any_name_is_allowed_on_other_addresses_unless_names_are_given(tiny_model: Path) -> None:
    with running_server(model_path=str(tiny_model), host="0.0.0.0", wait_for_model=False) as server:
        assert server.get("/version", headers={"Host": "server.example"}).status_code == 200


CROSS_SITE: list[dict[str, str]] = [
    {"Origin": PAGE},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Origin": "http://localhost.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:1"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_a_post_from_another_origin_is_403(limited_server: RunningServer, headers: dict[str, str]) -> None:
    response = limited_server.post("/generate", BODY, headers=headers)
    assert response.status_code == 403
    assert "--cors_origin" in response.json()["detail"]
    assert limited_server.get("/v1/models", headers=headers).status_code == 200  # the page cannot read the answer


def test_the_playground_and_clients_that_are_no_browsers_can_post(limited_server: RunningServer) -> None:
    own: list[dict[str, str]] = [
        {},
        {"Origin": limited_server.url},
        {"Origin": limited_server.url, "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://behind.a.proxy", "Sec-Fetch-Site": "same-origin"},
        {"Host": "localhost", "Origin": "https://LOCALHOST"},
        {"Sec-Fetch-Site": "none"},
    ]
    for headers in own:
        assert limited_server.post("/generate", BODY, headers=headers).status_code == 200, headers


def test_cors_allows_posts_from_its_origins_only(open_server: RunningServer) -> None:
    allowed = open_server.post("/generate", BODY, headers={"Origin": PAGE, "Sec-Fetch-Site": "cross-site"})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in allowed.headers["access-control-expose-headers"]
    other = open_server.post("/generate", BODY, headers={"Origin": "https://other.example"})
    assert other.status_code == 403


def test_http_1_0_needs_no_host(limited_server: RunningServer) -> None:
    assert exchange(int(port_of(limited_server)), b"GET /version HTTP/1.0\r\n\r\n").status == 200
