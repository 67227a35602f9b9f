"""Counters and gauges of one agent, in Prometheus' text format.

Protocols tell of what they count through `Observed`; nothing here is read back by any decision.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agent.metric_names import COUNTERS, FROM_ZERO, HISTOGRAMS
from beemesh.events import Observed

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SERIES_MAX = 200
"""Distinct counter names: they come from our own code, so more means a name made from outside data."""


class Metrics:
    """All that `/metrics` shows."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters: dict[tuple[str, tuple[str, ...]], Counter] = {}
        self._series: dict[tuple[object, ...], Counter] = {}
        """What counts each of the first combinations of labels: a flood of refusals must not wait for a look-up."""
        self._gauges: dict[str, Gauge] = {}
        self._raised: dict[str, Counter] = {}
        self._totals: dict[str, float] = {}
        self._refresh: list[Callable[[], None]] = []
        for name, (text, labels) in COUNTERS.items():
            self._counters[name, labels] = Counter(f"beemesh_{name}", text, labels, registry=self._registry)
            for value in FROM_ZERO.get(name, ()):
                self._counters[name, labels].labels(value)
        self._histograms = {
            name: Histogram(f"beemesh_{name}", text, buckets=buckets, registry=self._registry)
            for name, (text, buckets) in HISTOGRAMS.items()
        }

    def measure(self, name: str, value: float) -> None:
        """Enter a value into one of `HISTOGRAMS`."""
        self._histograms[name].observe(value)

    def count(self, observed: Observed) -> None:
        """Add to a counter, which is made when it is first seen."""
        place = (observed.metric, *observed.labels.items())
        series = self._series.get(place) or self._find(observed)
        if series is None:
            return
        if len(self._series) < SERIES_MAX:
            self._series[place] = series
        series.inc(observed.amount)

    def _find(self, observed: Observed) -> Counter | None:
        names = tuple(sorted(observed.labels))
        metric = observed.metric.removeprefix("beemesh_").removesuffix("_total")
        key = (metric, names)
        counter = self._counters.get(key)
        if counter is None:
            if len(self._counters) >= SERIES_MAX or any(known == metric for known, _ in self._counters):
                return None
            text = metric.replace("_", " ")
            counter = Counter(f"beemesh_{metric}", text, names, registry=self._registry)
            self._counters[key] = counter
        return counter.labels(*(observed.labels[name] for name in names)) if names else counter

    def set(self, name: str, value: float, help_text: str = "", **labels: str) -> None:
        """Set a gauge; one of a name has always the same labels."""
        gauge = self._gauges.get(name)
        if gauge is None:
            help_text = help_text or name.replace("_", " ")
            gauge = Gauge(f"beemesh_{name}", help_text, sorted(labels), registry=self._registry)
            self._gauges[name] = gauge
        (gauge.labels(**labels) if labels else gauge).set(value)

    def raise_to(self, name: str, value: float, help_text: str = "") -> None:
        """Bring a counter without labels up to a total that is counted elsewhere."""
        counter = self._raised.get(name)
        if counter is None:
            counter = Counter(f"beemesh_{name}", help_text or name.replace("_", " "), registry=self._registry)
            self._raised[name] = counter
        counter.inc(max(0.0, value - self._totals.get(name, 0.0)))
        self._totals[name] = value

    def before_reading(self, refresh: Callable[[], None]) -> None:
        """Call this each time before the page is made."""
        self._refresh.append(refresh)

    def text(self) -> bytes:
        """The page."""
        for refresh in self._refresh:
            refresh()
        return generate_latest(self._registry)
