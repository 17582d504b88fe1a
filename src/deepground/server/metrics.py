"""Figures for Prometheus: what was asked, what it cost, how long it took, and where the engine stands.

Scraped at `/metrics`. Names follow Prometheus's conventions; `deploy/grafana-dashboard.json` draws them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deepground.messages import Usage
from deepground.server.gate import Gate
from deepground.server.service import ModelService

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The figures of one server.

    Args:
        service: whose counters are read at every scrape.
        gate: likewise.
    """

    def __init__(self, service: ModelService, gate: Gate) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineFigures(service, gate))
        self.responses = Counter(
            "deepground_http_responses", "HTTP responses.", ("route", "status"), registry=self._registry
        )
        self.requests = Counter(
            "deepground_requests", "Requests to the model that have ended.", ("route", "key", "finish"),
            registry=self._registry,
        )  # fmt: skip
        kinds = "Tokens; kind is computed_prompt, cached_prompt, reasoning or answer."
        self.tokens = Counter("deepground_tokens", kinds, ("key", "kind"), registry=self._registry)
        self.queue_s = self._histogram("queue_seconds", "From a request to its place in the engine.", _SECONDS)
        self.first_token_s = self._histogram("time_to_first_token_seconds", "From request to first token.", _SECONDS)
        self.inter_token_s = self._histogram("inter_token_seconds", "Between tokens of one reply.", _TOKEN_SECONDS)
        self.request_s = self._histogram("request_seconds", "From a request to the end of its reply.", _SECONDS)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"deepground_{name}", text, buckets=buckets, registry=self._registry)

    def count_usage(self, key: str, usage: Usage) -> None:
        """Count the tokens of one request."""
        counts = {
            "computed_prompt": usage.prompt_cache_miss_tokens,
            "cached_prompt": usage.prompt_cache_hit_tokens,
            "reasoning": usage.reasoning_tokens,
            "answer": usage.completion_tokens - usage.reasoning_tokens,
        }
        for kind, count in counts.items():
            self.tokens.labels(key, kind).inc(count)

    def text(self) -> bytes:
        """The figures in Prometheus's text format."""
        return generate_latest(self._registry)


class _EngineFigures(Collector):
    """Reads the engine's own counters when they are asked for."""

    def __init__(self, service: ModelService, gate: Gate) -> None:
        self._service = service
        self._gate = gate

    def collect(self) -> Iterable[Metric]:
        """As prometheus-client has it."""
        stats = self._service.stats
        gauges = {
            "up": ("Whether requests can be answered.", int(self._service.is_healthy)),
            "requests_under_way": ("Requests answered or waiting.", self._gate.under_way),
            "replies_waiting": ("Replies that wait for a place in the engine.", self._gate.waiting),
            "replies_running": ("Replies that have a place in the engine.", self._gate.running),
            "engine_running": ("Sequences that the engine computes.", stats.running),
            "engine_waiting": ("Sequences that the engine has taken but not begun.", stats.waiting),
            "cache_pages_used": ("Pages of keys and values in the hands of requests.", stats.pages_used),
            "cache_pages_cached": ("Pages of cached prefixes that no request uses.", stats.pages_cached),
            "cache_pages_total": ("Pages there are.", stats.pages_total),
        }
        counters = {
            "engine_steps": ("Passes through the model.", stats.steps),
            "engine_computed_tokens": ("Tokens that passed through the model.", stats.computed_tokens),
            "engine_generated_tokens": ("Tokens generated.", stats.generated_tokens),
            "engine_drafted_tokens": ("Guesses at next tokens.", stats.drafted_tokens),
            "engine_accepted_tokens": ("Guesses that were right.", stats.accepted_tokens),
            "engine_preemptions": ("Sequences that lost their pages for a while.", stats.preemptions),
            "engine_aborted": ("Sequences ended because nobody wanted them any more.", stats.aborted),
            "engine_failed": ("Sequences that failed.", stats.failed),
            "prompt_cache_hit_tokens": ("Prompt tokens that the prefix cache had.", stats.prompt_cache_hit_tokens),
            "prompt_cache_miss_tokens": ("Prompt tokens that it had not.", stats.prompt_cache_miss_tokens),
        }
        yield from _families(GaugeMetricFamily, gauges)
        yield from _families(CounterMetricFamily, counters)


def _families(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily], figures: dict[str, tuple[str, int]]
) -> Iterator[Metric]:
    for name, (text, value) in figures.items():
        yield kind(f"deepground_{name}", text, value=value)
