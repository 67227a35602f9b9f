"""Probing one run of a container as a kubelet does: when to look, and what the answers mean. Nothing is asked here.

Source: the kubelet's `prober/worker.go`. A startup probe holds the others back until it has succeeded once. A result
counts when it came `failureThreshold` or `successThreshold` times in a row. Until then a container without answers is
alive, but not ready. A container whose liveness or startup failed is to be restarted; its next run starts afresh.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from beemesh.workloads.care import Kind, ProbeSpec

SPREAD = 0.1
"""Part of a period by which first looks are spread, so that the containers of a machine that came up together are not
all looked at in the same moment for ever. A readiness probe's first look is not put off: somebody waits for it."""


@dataclass(slots=True)
class _Watch:
    """How one probe of a container stands."""

    spec: ProbeSpec
    next_s: float
    good: bool
    is_asking: bool = False
    in_a_row: int = 0
    last: bool | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a result changed."""

    failed: Kind | None = None
    """The probe by which the container is to be restarted; None when it is not."""
    grace_s: int | None = None
    """How long the container may take to end, where the failed probe says so."""
    changed: bool = False
    """Whether readiness or startedness is another than before."""


NOTHING = Verdict()


@dataclass(slots=True)
class ContainerProbes:
    """The probes of one run of one container. Times are seconds of one clock that never goes back."""

    specs: tuple[ProbeSpec, ...]
    started_s: float
    spread: float
    """From 0 to 1, drawn by the caller: where in the spread of first looks this container stands."""
    _watches: dict[Kind, _Watch] = field(default_factory=dict)
    _is_over: bool = False

    def __post_init__(self) -> None:
        for spec in self.specs:
            first_s = self.started_s + spec.initial_delay_s
            if spec.kind == "liveness":
                first_s += self.spread * SPREAD * spec.period_s
            self._watches[spec.kind] = _Watch(spec, first_s, good=spec.kind == "liveness")

    @property
    def is_started(self) -> bool:
        """Whether the startup probe succeeded; without one the container is started."""
        return "startup" not in self._watches or self._watches["startup"].good

    @property
    def is_ready(self) -> bool:
        """Whether the container may be sent requests, as far as its probes tell."""
        readiness = self._watches.get("readiness")
        return self.is_started and not self._is_over and (readiness is None or readiness.good)

    def next_s(self) -> float | None:
        """When to look next; None when no probe is waiting for its time."""
        return min((watch.next_s for watch in self._waiting()), default=None)

    def due(self, now_s: float) -> tuple[ProbeSpec, ...]:
        """The probes whose time has come. Each is to be answered with `result` before it comes again."""
        found = []
        for watch in self._waiting():
            if watch.next_s <= now_s:
                watch.is_asking = True
                late = max(0.0, now_s - watch.next_s) // watch.spec.period_s  # looks that were missed are not made up
                watch.next_s += (late + 1) * watch.spec.period_s
                found.append(watch.spec)
        return tuple(found)

    def result(self, kind: Kind, now_s: float, *, ok: bool) -> Verdict:
        """What follows from a probe's answer, or from its silence."""
        watch = self._watches[kind]
        watch.is_asking = False
        if self._is_over:
            return NOTHING
        watch.in_a_row = watch.in_a_row + 1 if ok is watch.last else 1
        watch.last = ok
        if watch.in_a_row < (watch.spec.success_threshold if ok else watch.spec.failure_threshold):
            return NOTHING
        before = (self.is_started, self.is_ready)
        watch.good = ok
        if kind != "readiness" and not ok:
            self._is_over = True
            return Verdict(failed=kind, grace_s=watch.spec.grace_s, changed=before != (self.is_started, self.is_ready))
        if kind == "startup" and not before[0]:
            self._begin_others(now_s)
        return Verdict(changed=before != (self.is_started, self.is_ready))

    def _begin_others(self, now_s: float) -> None:
        """Readiness is looked at right after the start; liveness in its own time."""
        for kind, watch in self._watches.items():
            if kind == "readiness":
                watch.next_s = max(now_s, self.started_s + watch.spec.initial_delay_s)
            elif kind == "liveness":
                watch.next_s = max(watch.next_s, now_s)

    def _waiting(self) -> list[_Watch]:
        if self._is_over:
            return []
        started = self.is_started
        return [
            watch
            for kind, watch in self._watches.items()
            if not watch.is_asking and (not watch.good if kind == "startup" else started)
        ]
