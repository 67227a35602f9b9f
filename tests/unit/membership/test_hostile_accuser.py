"""A hostile accuser and a starved honest one are two: they do not make a node believe what it can see is false."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.effects import Cancel, Effects, Notify, Received, Schedule, Send, TimerFired
from beemesh.events import FloorWanted, MemberDown
from beemesh.ids import BootId, NodeId
from beemesh.membership.messages import Ack, Claims, Ping
from beemesh.membership.suspicion import BLAME_EVERY_S, REFUTATION_BURST
from beemesh.membership.swim import Swim
from beemesh.membership.view import View
from tests.unit.membership.cast import IDS, KEYS, alive, at, roster, signed_card, suspect, table

HOSTILE, STARVED, ACCUSED = 1, 2, 4
MEMBERS = 6


class Witness:
    """Member 0 with its own clock: it never probes by itself, and knows the accused by hearsay. Everybody answers it at
    once, the accused from `back_s` on, and nobody ever refutes; while it is starved, what it sends and is sent waits,
    and its timers go on, as in Lifeguard's experiments."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.back_s = 0.0
        self.now_s = 0.0
        self.starved_until_s = 0.0
        self._waiting: list[tuple[str, Any]] = []
        self._timers: dict[Any, float] = {}
        self._due: list[tuple[float, int, str, Any]] = []
        self._count = itertools.count()
        known = roster(MEMBERS)
        self.view = View(IDS[0], known)
        self.swim = Swim(
            IDS[0],
            BootId(bytes(16)),
            ("10.0.0.0", 7946),
            signed_card(0),
            roster=known,
            view=self.view,
            crypto=KEYS[0],
            randomness=self.random,
            new_request_id=itertools.count(1).__next__,
        )
        self.judged: list[float] = []
        self._carry(self.swim.start(at(0)))
        for index in range(1, MEMBERS):
            self._carry(self.swim.handle(FloorWanted(IDS[index]), at(0)))
            self.tell(index, Claims((alive(index, 1),)))

    def tell(self, sender: int, message: Any) -> None:
        """A member says something, a moment from now."""
        self._later(self.random.uniform(0.001, 0.05), "heard", Received(IDS[sender], message))

    def starve(self, seconds: float) -> None:
        """It gets nothing, and says nothing, for so long."""
        self.starved_until_s = self.now_s + seconds

    def run(self, until_s: float) -> None:
        """Let time pass."""
        while True:
            next_s = self._due[0][0] if self._due else float("inf")
            if self._waiting and self.starved_until_s <= min(next_s, until_s):
                self.now_s = max(self.now_s, self.starved_until_s)
                waiting, self._waiting = self._waiting, []
                self.random.shuffle(waiting)
                for kind, what in waiting:
                    self._happen(kind, what)
            elif next_s <= until_s:
                self.now_s, _, kind, what = heapq.heappop(self._due)
                self._happen(kind, what)
            else:
                self.now_s = until_s
                return

    def _later(self, in_s: float, kind: str, what: Any) -> None:
        heapq.heappush(self._due, (self.now_s + in_s, next(self._count), kind, what))

    def _happen(self, kind: str, what: Any) -> None:
        if kind == "timer":
            key, due_s = what
            if self._timers.get(key) == due_s:
                del self._timers[key]
                self._carry(self.swim.handle(TimerFired(key), at(self.now_s)))
        elif self.now_s < self.starved_until_s:
            self._waiting.append((kind, what))
        elif kind == "heard":
            self._carry(self.swim.handle(what, at(self.now_s)))
        elif isinstance(what.message, Ping) and (what.to != IDS[ACCUSED] or self.now_s >= self.back_s):
            self.tell(IDS.index(NodeId(what.to)), Ack(what.message.nonce))

    def _carry(self, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case Schedule(key=key, at_boot_s=due_s) if key != ("swim", "probe"):
                    self._timers[key] = due_s
                    self._later(max(0.0, due_s - self.now_s), "timer", (key, due_s))
                case Cancel(key=key):
                    self._timers.pop(key, None)
                case Send():
                    self._later(0.0, "sent", effect)
                case Notify(event=MemberDown()):
                    self.judged.append(self.now_s)


STEP = st.tuples(st.sampled_from(["hostile", "starved", "burst", "word"]), st.floats(0.05, 6.0))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 16), st.lists(STEP, min_size=1, max_size=20), st.floats(5.0, 60.0), st.integers(0, 8))
def test_whom_a_node_reaches_it_does_not_hold_dead(
    seed: int, steps: list[tuple[str, float]], back_s: float, unwell: int
) -> None:
    """Whatever two accusers say, and however starved and unwell the node is itself: an accused that is back is asked
    within a probe interval, and is not dead, even if it never refutes."""
    witness = Witness(seed)
    witness.run(5.0)
    witness.back_s = back_s
    witness.swim.members.health.score = unwell
    for kind, seconds in steps:
        if kind == "burst":
            witness.starve(seconds)
        elif kind == "word":
            witness.tell(3, Claims(()))
        else:
            accuser = HOSTILE if kind == "hostile" else STARVED
            witness.tell(accuser, Claims((suspect(accuser, ACCUSED, 1, at_s=witness.now_s),)))
        witness.run(witness.now_s + seconds)
    for _ in range(60):
        witness.tell(3, Claims(()))
        witness.run(witness.now_s + 1.0)

    assert all(at_s <= back_s + 1.1 for at_s in witness.judged)


LIE = st.tuples(st.integers(0, MEMBERS - 1), st.integers(1, 20), st.floats(0.0, 3.0))


@settings(max_examples=100, deadline=None)
@given(st.lists(LIE, max_size=40))
def test_a_liar_neither_wears_the_accused_out_nor_keeps_it_from_refuting(lies: list[tuple[int, int, float]]) -> None:
    """Whomever a liar accuses how often, also at incarnations that do not exist yet: the accused refutes it about once
    in a probe interval, and loses a point of health a minute. An honest accusation is refuted at once, and whatever the
    liar said elsewhere within an interval of being told again."""
    members = table(MEMBERS)
    for index in range(1, MEMBERS):
        members.take(alive(index, 1), at(0))
    now_s = 0.0
    for accused, chain, pause_s in lies:
        first = 1 if accused else members.own.incarnation
        for ahead in range(chain):
            members.take(suspect(HOSTILE, accused, first + ahead, at_s=now_s), at(now_s))
        now_s += pause_s
    assert members.own.incarnation - 1 <= REFUTATION_BURST + now_s
    assert members.health.score <= 1 + now_s / BLAME_EVERY_S

    for accuser, told_s in ((STARVED, (0.0,)), (HOSTILE, (0.0, 1.0))):
        accused_at = members.own.incarnation
        for second in told_s:
            members.take(suspect(accuser, 0, accused_at, at_s=now_s), at(now_s + second))
        assert members.own.incarnation == accused_at + 1
