"""Why a hosted workload's replica is not placed: asked of those who did not bid, told to whoever reads events."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from beemesh.effects import Answered, Effects, Now
from beemesh.events import TaskUnplaced
from beemesh.ids import NodeId, short
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.scheduling.stewardship.ledger import Outstanding, TaskLedger
from beemesh.scheduling.stewardship.pending import REASON_CHARS_MAX, Inquiry
from beemesh.scheduling.telling import Teller

UNFIT = "no live node has the name, the labels or the tolerated taints that it asks for"


class Unplaced:
    """One node's inquiries. Part of the steward, whose table of hosted workloads it reads."""

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        view: View,
        ledger: TaskLedger,
        hosted: Mapping[str, Hosted],
        tell: Teller,
        new_request_id: Callable[[], int],
    ) -> None:
        self._inquiry = Inquiry(self_id, roster, view, new_request_id)
        self._roster = roster
        self._view = view
        self._ledger = ledger
        self._hosted = hosted
        self._tell = tell

    def no_bids(self, task_id: str) -> Effects:
        """The window is over: if nobody spoke, ask why."""
        if self._view.is_large:
            return []  # those who were asked have said it by themselves
        return self._inquiry.ask(task_id) if self._untaken(task_id) else []

    def refused(self, unplaced: TaskUnplaced, now: Now) -> Effects:
        """All that were asked alone refuse a task: tell why it is pending, if that is news."""
        names = {node_id: self._roster.member(node_id) for node_id, _ in unplaced.reasons}
        details = {
            card.name if card else short(node_id): "; ".join(reasons)[:REASON_CHARS_MAX]
            for (node_id, reasons), card in zip(unplaced.reasons, names.values(), strict=True)
        }
        return self._pending(unplaced.task_id, details, now, UNFIT if not details else "")

    def answered(self, request_id: int, answer: Answered, now: Now) -> Effects:
        """Take a silent node's reasons; the last one of a round tells why the replica is pending, if that is news."""
        done = self._inquiry.answered(request_id, answer)
        return self._pending(*done, now) if done else []

    def _pending(self, task_id: str, details: dict[str, str], now: Now, known: str = "") -> Effects:
        """Say why nobody takes it; `known` where no node had to tell."""
        found = self._untaken(task_id)
        if found is None:
            return []
        hosted, each = found
        slot = (each.task.revision, each.task.replica)
        text = known or "; ".join(f"{name}: {reason}" for name, reason in sorted(details.items()))
        if not hosted.should_tell(slot, text, now.boot_s):
            return []
        reason = f"no node takes it: {text}" if text else "no node answered"
        return [hosted.tell(self._tell, "Pending", slot, now, reason, details, task_id=each.task.task_id)]

    def _untaken(self, task_id: str) -> tuple[Hosted, Outstanding] | None:
        """A task of a workload that is hosted here, which nobody has bid for or taken."""
        each = self._ledger.find(task_id)
        hosted = self._hosted.get(each.task.workload_id) if each else None
        if each is None or hosted is None or not hosted.hosting or each.bids or each.holder:
            return None
        return hosted, each
