"""What stewards told of whole workloads, and later ones depend on: that a Job is over, that a revision has failed,
which one was complete last. Whoever keeps events spares these: forgotten, the Job would run again, and the revision be
tried again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from beemesh.intents.record import workload_key
from beemesh.scheduling.messages import Event
from beemesh.scheduling.tasks import IntentLookup, workload_of
from beemesh.scheduling.telling import MANIFEST, revision_told_of

VERDICTS_MAX = 500
"""Events that are spared: half of what a journal keeps."""


class Verdicts:
    """The last words on each workload that stands. Nobody can fill it with workloads that no operator signed."""

    def __init__(self, intent_for: IntentLookup) -> None:
        self._intent_for = intent_for
        self._ended: OrderedDict[str, Event] = OrderedDict()
        """By workload: how its current revision ended, as a Job or as a rollout."""
        self._complete: OrderedDict[str, Event] = OrderedDict()
        """By workload: which kept revision was complete last."""

    def spares(self, event: Event) -> bool:
        """Whether the event is such a word."""
        last = self._kind(event).get(event.workload_id)
        return last is not None and last.event_id == event.event_id

    def heard(self, event: Event) -> None:
        """An event is kept from now on. Where there are too many, the one that came first ages like any other again;
        complete rollouts before the others, since stewards see for themselves what is complete and runs."""
        if MANIFEST not in event.details:
            return
        kind = self._kind(event)
        workload = workload_of(self._intent_for(workload_key(event.workload_id)))
        revision = revision_told_of(event, workload) if workload is not None else None
        if workload is None or revision is None or (kind is self._ended and revision is not workload.current):
            return
        last = kind.get(event.workload_id)
        if last is not None and (last.issued_ms, last.event_id) > (event.issued_ms, event.event_id):
            return
        kind[event.workload_id] = event
        kind.move_to_end(event.workload_id)
        while len(self._ended) + len(self._complete) > VERDICTS_MAX:
            (self._complete or self._ended).popitem(last=False)

    def changed(self, workload_id: str, events: Iterable[Event]) -> None:
        """Another record stands, or none; `events` are those that are kept of the workload, in any order."""
        self._ended.pop(workload_id, None)
        self._complete.pop(workload_id, None)
        for event in events:
            self.heard(event)

    def _kind(self, event: Event) -> OrderedDict[str, Event]:
        return self._complete if event.status == "RolledOut" else self._ended
