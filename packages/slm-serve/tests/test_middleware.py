"""The API key, the limit of the body size, CORS and security headers."""

import base64
from pathlib import Path
from typing import Any

import httpx

from slm_testing.serve.running_server import RunningServer, running_server


def test_a_body_that_is_too_large_is_413_with_and_without_a_content_length(limited_server: RunningServer) -> None:
    large = {"prompt": "a" * 3000}
    assert limited_server.post("/generate", large).status_code == 413
    pieces = (b'{"prompt": "' + b"a" * 900, b"a" * 900, b"a" * 900 + b'"}')
    headers = {"Content-Type": "application/json"}
    chunked = limited_server.request("POST", "/v1/completions", content=iter(pieces), headers=headers)
    assert chunked.status_code == 413
    assert "2000 bytes" in chunked.json()["error"]["message"]


def test_the_key_is_required_for_everything_but_health_checks(tiny_model: Path) -> None:
    settings: dict[str, Any] = {"api_key": "s3cret", "cors_origin": ["https://page.example"]}
    with running_server(model_path=str(tiny_model), **settings) as server:
        for path in ("/", "/metrics", "/v1/models", "/openapi.json", "/static/playground.js", "/nowhere"):
            response = server.get(path)
            assert response.status_code == 401
            assert "Bearer" in response.headers["WWW-Authenticate"]
        assert server.get("/v1/models").json()["error"]["type"] == "authentication_error"
        for wrong in ("Bearer", "Bearer s3cre", "Bearer s3cret2", "Token s3cret", "Basic !", "Bearer ключ"):
            assert server.get("/v1/models", headers={"Authorization": wrong.encode()}).status_code == 401
        basic = base64.b64encode(b"anyone:s3cret").decode()
        for right in ("Bearer s3cret", "bearer s3cret", f"Basic {basic}"):
            assert server.get("/v1/models", headers={"Authorization": right}).status_code == 200
        assert server.get("/health/live").status_code == server.get("/health/ready").status_code == 200
        preflight = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
        allowed = httpx.options(f"{server.url}/generate", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        other = httpx.options(f"{server.url}/generate", headers=preflight | {"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_a_key_and_a_password_can_be_any_text(tiny_model: Path) -> None:
    key = "schlüssel-ключ-鍵"
    with running_server(model_path=str(tiny_model), api_key=key, wait_for_model=False) as server:
        basic = base64.b64encode(f"jürgen:{key}".encode())
        for right in (f"Bearer {key}".encode(), b"Basic " + basic):
            assert server.get("/version", headers={"Authorization": right}).status_code == 200
        for wrong in (f"Bearer {key}x".encode(), "Bearer schlüssel".encode(), "Bearer schlüssel".encode("latin-1")):
            assert server.get("/version", headers={"Authorization": wrong}).status_code == 401


def test_no_other_origin_is_allowed_by_default(limited_server: RunningServer) -> None:
    response = limited_server.get("/v1/models", headers={"Origin": "https://page.example"})
    assert "access-control-allow-origin" not in response.headers
