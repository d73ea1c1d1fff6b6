"""Prometheus metrics. Each app has its own registry, so that several apps can run in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slm_serve.backends.answer import Delta
from slm_serve.backends.protocol import BackendLoad

# Upper bounds of the histograms' buckets, in seconds.
TEXT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)


class Metrics:
    """Counters and histograms of the requests, and the current load of the backend.

    Args:
        get_load: returns the load of the backend; None before it is loaded.
    """

    def __init__(self, get_load: Callable[[], BackendLoad | None]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_LoadCollector(get_load))
        options: Any = {"registry": self._registry}
        self._responses = Counter("slm_requests", "HTTP responses.", ["route", "status"], **options)
        self._prompt_tokens = Counter("slm_prompt_tokens", "Tokens of accepted prompts.", **options)
        self._new_tokens = Counter("slm_generation_tokens", "Generated tokens.", **options)
        self._finished = Counter("slm_finished_texts", "Finished texts by finish reason.", ["reason"], **options)
        self._first_token = Histogram(
            "slm_time_to_first_token_seconds", "From the start of a text to its first token.",
            buckets=TEXT_BUCKETS, **options,
        )  # fmt: skip
        self._per_token = Histogram(
            "slm_time_per_output_token_seconds", "Mean time between two tokens of a text.",
            buckets=TOKEN_BUCKETS, **options,
        )  # fmt: skip
        self._total = Histogram(
            "slm_text_seconds", "From the start of a text to its end.", buckets=TEXT_BUCKETS, **options
        )

    def count_response(self, route: str, status: int) -> None:
        """Count an HTTP response."""
        self._responses.labels(route, str(status)).inc()

    def count_prompt(self, tokens: int) -> None:
        """Count the tokens of an accepted prompt."""
        self._prompt_tokens.inc(tokens)

    def count_tokens(self, tokens: int) -> None:
        """Count generated tokens."""
        self._new_tokens.inc(tokens)

    def record_finished(self, delta: Delta, tokens: int) -> None:
        """Record a text of ``tokens`` tokens whose last delta is ``delta``."""
        assert delta.timing
        assert delta.finish_reason
        self._finished.labels(delta.finish_reason).inc()
        self._total.observe(delta.timing.total)
        if tokens:  # a deadline can end a text before its first token
            self._first_token.observe(delta.timing.first_token)
        if tokens > 1:
            self._per_token.observe((delta.timing.total - delta.timing.first_token) / (tokens - 1))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _LoadCollector(Collector):
    """Reads the load of the backend when the metrics are requested."""

    def __init__(self, get_load: Callable[[], BackendLoad | None]) -> None:
        self._get_load = get_load

    def collect(self) -> Iterator[Metric]:
        load = self._get_load() or BackendLoad(0, 0, 0, 0, 0)
        yield GaugeMetricFamily("slm_running", "Texts being generated.", load.running)
        yield GaugeMetricFamily("slm_queue", "Texts waiting to be generated.", load.waiting)
        if load.pages:
            yield GaugeMetricFamily("slm_pages_used", "Pages of the pool in use.", load.pages_used)
            yield GaugeMetricFamily("slm_pages", "Pages of the pool.", load.pages)
            yield CounterMetricFamily("slm_preemptions", "Texts preempted because no page was free.", load.preemptions)
            yield CounterMetricFamily("slm_drafted_tokens", "Tokens drafted by speculation.", load.drafted_tokens)
            yield CounterMetricFamily("slm_accepted_tokens", "Drafted tokens that were sampled.", load.accepted_tokens)
