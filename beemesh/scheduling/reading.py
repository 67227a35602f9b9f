"""What the shell tells the journal for those who read it: in a large mesh events do not come by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from beemesh.identity.signing import Signed


@dataclass(frozen=True, slots=True)
class EventsWatched:
    """From the shell: somebody watches events at this agent for the next `for_s` seconds; of one namespace, or all."""

    for_s: float
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class EventsTold:
    """Events that another node kept, as they were signed. They are checked as if they were heard, and are no news to
    anybody."""

    events: tuple[Signed, ...]
