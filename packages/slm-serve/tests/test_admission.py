"""The bounded queue and the limits on requests."""

import pytest

from slm_serve import Settings
from slm_serve.admission import AdmissionControl
from slm_serve.errors import RequestError
from slm_testing.serve.open_streams import LONG_REQUEST, is_idle, open_stream
from slm_testing.serve.running_server import RunningServer
from slm_testing.serve.waiting import wait_until


def test_a_full_queue_is_429_with_a_time_to_try_again(slow_server: RunningServer) -> None:
    connections = [open_stream(slow_server, LONG_REQUEST | {"stream": True}) for _ in range(3)]
    wait_until(lambda: len(slow_server.service._answers) == 3)
    for path, body in [("/generate", LONG_REQUEST), ("/v1/completions", {"prompt": "a"})]:
        response = slow_server.post(path, body)
        assert response.status_code == 429
        assert int(response.headers["Retry-After"]) >= 1
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert slow_server.metric("slm_running") == 2
    assert slow_server.metric("slm_queue") == 1
    assert slow_server.get("/health/ready").status_code == 200
    for connection in connections:
        connection.close()
    wait_until(lambda: is_idle(slow_server))
    assert slow_server.post("/generate", {"prompt": "a", "max_new_tokens": 2}).status_code == 200


def test_more_texts_than_ever_fit_are_an_invalid_request(limited_server: RunningServer) -> None:
    response = limited_server.post("/v1/completions", {"prompt": "a", "n": 4, "max_tokens": 2})
    assert response.status_code == 400
    assert "takes 3 at once" in response.text
    assert limited_server.post("/v1/completions", {"prompt": "a", "n": 3, "max_tokens": 2}).status_code == 200


def test_a_prompt_above_the_limit_of_the_server_is_rejected(limited_server: RunningServer) -> None:
    response = limited_server.post("/generate", {"prompt": "a " * 300, "max_new_tokens": 2})
    assert response.status_code == 422
    assert "this server takes 200" in response.json()["detail"]


def test_the_time_to_try_again_grows_with_the_queue_and_the_duration_of_requests() -> None:
    admission = AdmissionControl(Settings(max_queue=6))
    retry_after = []
    for unfinished, duration in ((2, None), (8, None), (8, 42.0), (8, 1e6)):
        if duration is not None:
            admission.record(duration)
        with pytest.raises(RequestError) as raised:
            admission.check_queue(7, unfinished, max_sequences=2)
        assert raised.value.status == 429
        assert raised.value.headers is not None
        retry_after.append(int(raised.value.headers["Retry-After"]))
    # 2 s for each batch of 2 at first; then 0.9 * 2 s + 0.1 * 42 s = 6 s; never above a minute.
    assert retry_after == [2, 8, 24, 60]
