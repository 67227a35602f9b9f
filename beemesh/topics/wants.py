"""Messages that others mentioned and that did not come: who is asked for them, when, and who is no longer believed."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from beemesh.ids import NodeId
from beemesh.topics.messages import MESSAGE_ID_BYTES

MISSING_MAX = 4_096
"""Messages that are asked for at the same time: as many as anybody keeps."""
MISSING_PER_MEMBER_MAX = 512
"""Of these, mentioned first by one member: a flood of ids that do not exist leaves room for the others' mentions."""

ASK_AGAIN_S = 0.1
"""A message that was asked for and did not come is asked for again, in turn from those who mentioned it."""
ASKED_TIMES_MAX = 16
"""Half of all requests succeed at 30 % loss: all of these fail once in a hundred thousand times, and the next mention
starts anew."""
ASKED_QUICKLY = 10
"""Requests for one message after which the pauses double, up to `ASK_SLOWLY_S`, unless some of the last answers came
within a pause: to a node that hears slowly all answers are on their way already, and would come again and again. At
30 % loss so many fail in a row once in a thousand times."""
ASK_SLOWLY_S = 1.6
ANSWERS_TIMED = 8
"""Answers whose delays are remembered."""
SLOW_TOGETHER_S = 1.6
"""So long they must have taken together, none of them within a pause, before a node takes itself for one that hears
slowly: sixteen requests that failed in a row, which losses of 30 % alone do once in fifty thousand times."""
HOLDERS_MAX = 4
"""Members remembered for a missing message, newest first."""

BROKEN_MAX = 20
"""Requests in a row that a member left unanswered, after which its mentions are not believed: at 30 % loss an honest
one gets there once in a million times. (A datagram that asks for many ids counts once.)"""
SHUNNED_S = 30.0
"""So long they are not; then it is given another chance."""


@dataclass(slots=True)
class _Missing:
    first: NodeId
    holders: list[NodeId]
    asked: int
    again_s: float
    asked_s: float = 0.0
    """Boot time of the first request."""


class Wants:
    """The missing messages of one node."""

    def __init__(self) -> None:
        self._missing: OrderedDict[bytes, _Missing] = OrderedDict()
        self._open: dict[NodeId, int] = {}
        self._unanswered: dict[NodeId, int] = {}
        self._shunned: dict[NodeId, float] = {}
        self._delays_s: deque[float] = deque(maxlen=ANSWERS_TIMED)

    def __len__(self) -> int:
        return len(self._missing)

    def __contains__(self, key: bytes) -> bool:
        return key in self._missing

    def is_shunned(self, member: NodeId, now_s: float) -> bool:
        """Whether a member promised too much lately."""
        until_s = self._shunned.get(member)
        if until_s is None:
            return False
        if until_s <= now_s:
            del self._shunned[member]
            return False
        return True

    def mentioned(self, sender: NodeId, ids: Iterable[bytes], now_s: float, patience_s: float = 0.0) -> list[bytes]:
        """`sender` says that it has these, which are not here; the ids to ask it for at once.

        With `patience_s` above 0 they may be on their way already: they are asked for when that time is over."""
        if self.is_shunned(sender, now_s):
            return []
        at_once = []
        for key in ids:
            missing = self._missing.get(key)
            if missing is None:
                if not self._is_room(sender) or len(key) != MESSAGE_ID_BYTES:
                    continue
                missing = self._missing[key] = _Missing(sender, [], 0, now_s + patience_s)
                self._open[sender] = self._open.get(sender, 0) + 1
            if sender not in missing.holders:
                missing.holders = [sender, *missing.holders][:HOLDERS_MAX]
            if missing.asked == 0 and patience_s <= 0.0:
                missing.asked, missing.again_s, missing.asked_s = 1, now_s + self._pause_s(1), now_s
                at_once.append(key)
        return at_once

    def coming(self, key: bytes, sender: NodeId, until_s: float) -> None:
        """Pieces of a message arrive from `sender`: ask nobody for it until then."""
        missing = self._missing.get(key)
        if missing is None:
            if not self._is_room(sender):
                return
            missing = self._missing[key] = _Missing(sender, [sender], 1, until_s)
            self._open[sender] = self._open.get(sender, 0) + 1
        missing.again_s = max(missing.again_s, until_s)
        self._unanswered.pop(sender, None)

    def arrived(self, key: bytes, sender: NodeId, now_s: float) -> tuple[tuple[NodeId, ...], tuple[NodeId, ...]]:
        """The message is here; (who said that they have it, who of them was asked for it)."""
        self._unanswered.pop(sender, None)
        missing = self._forget(key)
        if missing is not None and missing.asked_s:
            self._delays_s.append(now_s - missing.asked_s)
        if missing is None:
            return (), ()
        return tuple(missing.holders), tuple(missing.holders) if missing.asked else ()

    def due(self, now_s: float) -> tuple[dict[NodeId, list[bytes]], dict[NodeId, list[bytes]]]:
        """Whom to ask now, and for what: the next holder of each message that did not come. The second are those of
        the first that were asked for before in vain."""
        questions: dict[NodeId, list[bytes]] = {}
        again: dict[NodeId, list[bytes]] = {}
        failed: set[NodeId] = set()
        for key, missing in list(self._missing.items()):
            if missing.again_s > now_s:
                continue
            if missing.asked:
                failed.add(missing.holders[(missing.asked - 1) % len(missing.holders)])
            if missing.asked >= ASKED_TIMES_MAX:
                self._forget(key)
                continue
            holder = missing.holders[missing.asked % len(missing.holders)]
            missing.asked_s = missing.asked_s or now_s
            missing.asked, missing.again_s = missing.asked + 1, now_s + self._pause_s(missing.asked + 1)
            questions.setdefault(holder, []).append(key)
            if missing.asked > 1:
                again.setdefault(holder, []).append(key)
        for holder in failed:
            self._left_unanswered(holder, now_s)
        for holder in [each for each in questions if self.is_shunned(each, now_s)]:
            del questions[holder]
            again.pop(holder, None)
        return questions, again

    def next_s(self) -> float | None:
        """Boot time of the next question; None when nothing is missing."""
        return min([missing.again_s for missing in self._missing.values()], default=None)

    def forget_member(self, member: NodeId) -> None:
        """A member is gone: it answers nothing, and is not to blame."""
        self._unanswered.pop(member, None)
        for key, missing in list(self._missing.items()):
            if member in missing.holders:
                missing.holders.remove(member)
                if not missing.holders:
                    self._forget(key)

    def _pause_s(self, asked: int) -> float:
        """How long to wait for the answer to the request of that number."""
        quickest_s = min(self._delays_s, default=math.inf)
        if quickest_s <= ASK_AGAIN_S:
            return ASK_AGAIN_S
        pause_s = ASK_AGAIN_S * 2.0 ** max(0, asked - ASKED_QUICKLY)
        if sum(self._delays_s) >= SLOW_TOGETHER_S:
            pause_s = max(pause_s, 1.5 * quickest_s)
        return min(ASK_SLOWLY_S, pause_s)

    def _is_room(self, sender: NodeId) -> bool:
        return len(self._missing) < MISSING_MAX and self._open.get(sender, 0) < MISSING_PER_MEMBER_MAX

    def _forget(self, key: bytes) -> _Missing | None:
        missing = self._missing.pop(key, None)
        if missing is not None:
            left = self._open.get(missing.first, 1) - 1
            if left > 0:
                self._open[missing.first] = left
            else:
                self._open.pop(missing.first, None)
        return missing

    def _left_unanswered(self, holder: NodeId, now_s: float) -> None:
        count = self._unanswered.get(holder, 0) + 1
        self._unanswered[holder] = count
        if count >= BROKEN_MAX:
            del self._unanswered[holder]
            self._shunned[holder] = now_s + SHUNNED_S
