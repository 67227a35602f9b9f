"""What scheduling counts: one observation, one more in a metric of the agent."""

from __future__ import annotations

from beemesh.effects import Notify
from beemesh.events import Observed


def count(metric: str, **labels: str) -> Notify:
    """One more of something worth a metric: `scheduler_<metric>_total`."""
    return Notify(Observed(f"scheduler_{metric}_total", labels))
