"""The service while it loads, with a model or engine that fails, and with slow requests."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from slm_serve import service
from slm_serve.backends.loading import load_backend
from slm_testing.serve.open_streams import LONG_REQUEST, is_idle
from slm_testing.serve.running_server import RunningServer, delayed, running_server
from slm_testing.serve.waiting import wait_until


def test_an_error_in_one_request_ends_only_that_one_and_reveals_nothing_of_the_server(
    limited_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = limited_server.engine._take

    def fail_for_one_seed(results: Any, action: Any) -> Any:
        def fail_or_act(work: Any, *rest: Any) -> Any:
            if work.sequence.handle.params.seed == 666:
                raise RuntimeError("secret/path/model.py failed")
            return action(work, *rest)

        return take(results, fail_or_act)

    monkeypatch.setattr(limited_server.engine, "_take", fail_for_one_seed)
    with ThreadPoolExecutor(2) as threads:
        body = {"prompt": "a b", "max_new_tokens": 20}
        unaffected = threads.submit(limited_server.post, "/generate", body)
        failed = threads.submit(limited_server.post, "/generate", body | {"seed": 666}).result()
        streamed = limited_server.post("/v1/completions", {"prompt": "a", "seed": 666, "stream": True})
    assert unaffected.result().status_code == 200
    assert failed.status_code == 500
    assert failed.json()["detail"] == "the model failed on this request; see the server's log"
    assert '"type":"server_error"' in streamed.text
    assert "secret" not in streamed.text
    assert limited_server.get("/health/ready").status_code == 200


def test_an_engine_that_fails_ends_all_requests_and_the_server_is_not_ready(tiny_model: Path) -> None:
    with running_server(model_path=str(tiny_model)) as server:

        def failing_step() -> None:
            raise RuntimeError("the plan is wrong")

        server.engine.step = failing_step
        for _ in range(2):
            response = server.post("/generate", {"prompt": "a", "max_new_tokens": 3})
            assert response.status_code == 503
        ready = server.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["reason"].startswith("the engine failed")
        assert server.get("/health/live").status_code == 200


def test_logits_that_are_not_numbers_give_500_and_the_server_is_not_ready(tiny_model: Path) -> None:
    with running_server(model_path=str(tiny_model)) as server:
        assert server.get("/health/ready").status_code == 200
        server.engine.model.transformer.ln_f.weight.fill_(3e38)
        server.engine.weights_changed()
        response = server.post("/generate", {"prompt": "a b", "max_new_tokens": 3})
        assert response.status_code == 500
        assert "logit" in response.json()["detail"]
        ready = server.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert "logit" in ready.json()["reason"]
        assert server.get("/health/live").status_code == 200


def test_a_missed_deadline_is_504_and_an_event_in_a_stream(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(model_path=str(tiny_model), request_timeout=0.3) as server:
        monkeypatch.setattr(server.engine, "step", delayed(server.engine.step, 0.02))
        response = server.post("/generate", LONG_REQUEST)
        assert response.status_code == 504
        assert "0.3 s" in response.json()["detail"]
        completion = server.post("/v1/completions", {"prompt": "a", "max_tokens": 500, "ignore_eos": True})
        assert completion.json()["error"]["code"] == "timeout"
        streamed = server.post("/generate", LONG_REQUEST | {"stream": True})
        assert streamed.status_code == 200
        assert "0.3 s" in streamed.text.split("\n\n")[-2]
        wait_until(lambda: is_idle(server))


def test_prompts_are_logged_only_on_request(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    for log_prompts in (False, True):
        caplog.clear()
        with running_server(model_path=str(tiny_model), log_prompts=log_prompts) as server, caplog.at_level("INFO"):
            server.post("/generate", {"prompt": "SECRET WORDS", "max_new_tokens": 2})
            server.post("/v1/completions", {"prompt": "SECRET WORDS", "max_tokens": 2})
            server.post("/generate", {"prompt": "SECRET WORDS", "max_new_tokens": 2, "stream": True})
        assert caplog.text.count("prompt: 'SECRET WORDS'") == (3 if log_prompts else 0)


def test_a_server_that_is_loading_is_alive_but_not_ready(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "load_backend", delayed(load_backend, 1))
    with running_server(wait_for_model=False, model_path=str(tiny_model)) as server:
        assert server.get("/health/live").status_code == 200
        assert server.get("/health/ready").json() == {"status": "not ready", "reason": "the model is loading"}
        early = server.post("/generate", {"prompt": "a"})
        assert (early.status_code, early.headers["Retry-After"]) == (503, "5")
        wait_until(lambda: server.get("/health/ready").status_code == 200)
