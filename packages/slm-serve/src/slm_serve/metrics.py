"""Figures for Prometheus. Each app has its own registry, so that several may live in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slm_serve.backends.answer import Delta
from slm_serve.backends.protocol import Load

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)


class Metrics:
    """``load`` gives what the backend is doing, None while there is none."""

    def __init__(self, load: Callable[[], Load | None]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Backend(load))
        make: Any = {"registry": self._registry}
        self._requests = Counter("slm_requests", "Answers to requests.", ["route", "status"], **make)
        self._prompt_tokens = Counter("slm_prompt_tokens", "Tokens of prompts that were taken in.", **make)
        self._new_tokens = Counter("slm_generation_tokens", "Tokens that were generated.", **make)
        self._endings = Counter("slm_finished_texts", "Texts that were finished.", ["reason"], **make)
        self._first = Histogram(
            "slm_time_to_first_token_seconds", "From a text's start to its first token.", buckets=SECONDS, **make
        )
        self._each = Histogram(
            "slm_time_per_output_token_seconds", "Between two tokens, by text.", buckets=TOKEN_SECONDS, **make
        )
        self._total = Histogram("slm_text_seconds", "From a text's start to its end.", buckets=SECONDS, **make)

    def request(self, route: str, status: int) -> None:
        """An answer was given."""
        self._requests.labels(route, str(status)).inc()

    def prompt(self, tokens: int) -> None:
        """A prompt was taken in."""
        self._prompt_tokens.inc(tokens)

    def tokens(self, count: int) -> None:
        """Tokens were generated."""
        self._new_tokens.inc(count)

    def finished(self, delta: Delta, tokens: int) -> None:
        """A text of ``tokens`` tokens ended with ``delta``."""
        assert delta.timing
        assert delta.finish_reason
        self._endings.labels(delta.finish_reason).inc()
        self._first.observe(delta.timing.first)
        self._total.observe(delta.timing.total)
        if tokens > 1:
            self._each.observe((delta.timing.total - delta.timing.first) / (tokens - 1))

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)


class _Backend(Collector):
    """Asks the backend when it is asked."""

    def __init__(self, load: Callable[[], Load | None]) -> None:
        self._load = load

    def collect(self) -> Iterator[Metric]:
        load = self._load() or Load(0, 0, 0, 0, 0)
        yield GaugeMetricFamily("slm_running", "Texts that are being generated.", load.running)
        yield GaugeMetricFamily("slm_queue", "Texts that wait for their turn.", load.waiting)
        yield GaugeMetricFamily("slm_pages_used", "Pages of the pool that texts hold.", load.pages_used)
        yield GaugeMetricFamily("slm_pages", "Pages of the pool.", load.pages)
        yield CounterMetricFamily("slm_preemptions", "Texts that gave their pages back for another.", load.preemptions)
