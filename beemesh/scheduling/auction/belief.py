"""Which tasks and bids a node believes: signed by a member, of this time, well-formed, and not too many from one.

Only what a member signed, and what is new, counts against it: else others would use up its rate in its name. What
forgeries cost in checks is bounded where messages come in, by who sends them.
"""

from __future__ import annotations

from beemesh.crypto import Crypto
from beemesh.effects import Notify, Now
from beemesh.errors import Untrusted
from beemesh.events import Observed
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.rates import Rates
from beemesh.scheduling.messages import BID_KIND, Bid, SignedBid, SignedTask, Task
from beemesh.scheduling.taskbook import TaskBook
from beemesh.scheduling.tasks import BID_BYTES_MAX, TASK_BYTES_MAX, open_member_statement, open_task

BIDS_PER_S = 50.0
BIDS_BURST = 500.0
TASKS_PER_S = 50.0
TASKS_BURST = 1_000.0
"""What one member may publish: a large Deployment at once, and a steady stream after it."""


class Belief:
    """Opens what comes from others; what is not believed is counted with the reason."""

    def __init__(self, crypto: Crypto, roster: Roster, clock_skew_ms: int, book: TaskBook) -> None:
        """`book` has what is known already."""
        self._book = book
        self._crypto = crypto
        self._roster = roster
        self._clock_skew_ms = clock_skew_ms
        self._bid_rates = Rates(BIDS_PER_S, BIDS_BURST)
        self._task_rates = Rates(TASKS_PER_S, TASKS_BURST)

    def task(self, message: SignedTask, now: Now) -> Task | Notify:
        """The task in a message, or what to count."""
        if self._task_rates.is_empty(message.task.signer, now.boot_s):
            return _refused("tasks", "rate")
        if len(message.task.body) > TASK_BYTES_MAX:
            return _refused("tasks", "size")
        try:
            task = open_task(self._crypto, self._roster, message, now.wall_ms, self._clock_skew_ms)
        except Untrusted:
            return _refused("tasks", "untrusted")
        if self._book.get(task.task_id) is None:
            self._task_rates.take(message.task.signer, now.boot_s)
        return task

    def bid(self, message: SignedBid, now: Now) -> Bid | Notify:
        """The bid in a message of another node, or what to count."""
        signer = NodeId(message.bid.signer)
        if self._bid_rates.is_empty(signer, now.boot_s):
            return _refused("bids", "rate")
        if len(message.bid.body) > BID_BYTES_MAX:
            return _refused("bids", "size")
        try:
            bid = open_member_statement(self._crypto, self._roster, message.bid, BID_KIND, Bid, now.wall_ms)
        except Untrusted:
            return _refused("bids", "untrusted")
        if bid.node_id != signer or not 0.0 <= bid.score <= 1.0:
            return _refused("bids", "malformed")
        entry = self._book.get(bid.task_id)
        if entry is None or entry.bids.get(signer) != bid:
            self._bid_rates.take(signer, now.boot_s)
        return bid


def _refused(what: str, reason: str) -> Notify:
    return Notify(Observed(f"scheduler_{what}_refused_total", {"reason": reason}))
