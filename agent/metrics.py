"""Counters and gauges of one agent, in Prometheus' text format.

Protocols tell of what they count through `Observed`; nothing here is read back by any decision.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from beemesh.events import Observed

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SERIES_MAX = 200
"""Distinct counter names: they come from our own code, so more means a name made from outside data."""


class Metrics:
    """All that `/metrics` shows."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters: dict[tuple[str, tuple[str, ...]], Counter] = {}
        self._gauges: dict[str, Gauge] = {}

    def count(self, observed: Observed) -> None:
        """Add to a counter, which is made when it is first seen."""
        names = tuple(sorted(observed.labels))
        metric = observed.metric.removeprefix("beemesh_").removesuffix("_total")
        key = (metric, names)
        counter = self._counters.get(key)
        if counter is None:
            if len(self._counters) >= SERIES_MAX or any(known == metric for known, _ in self._counters):
                return
            text = metric.replace("_", " ")
            counter = Counter(f"beemesh_{metric}", text, names, registry=self._registry)
            self._counters[key] = counter
        (counter.labels(*(observed.labels[name] for name in names)) if names else counter).inc(observed.amount)

    def set(self, name: str, value: float, help_text: str = "") -> None:
        """Set a gauge."""
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = Gauge(f"beemesh_{name}", help_text or name.replace("_", " "), registry=self._registry)
            self._gauges[name] = gauge
        gauge.set(value)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)
