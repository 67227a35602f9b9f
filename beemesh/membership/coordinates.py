"""Where a node stands in a space whose distances are round trips: Vivaldi coordinates, from membership's own probes.

Source: Dabek, Cox, Kaashoek, Morris, "Vivaldi: A Decentralized Network Coordinate System" (SIGCOMM 2004), with the
measures by which Serf keeps it steady (Ledlie, Gardner, Seltzer, "Network Coordinates in the Wild", NSDI 2007): a
height for what a node's own access adds, an adjustment for what no space can express, gravity towards the origin, and a
median over each peer's last round trips. Nothing is sent for it: coordinates travel in summaries.

Coordinates come from others, and others may lie: what does not decode is not used, components are bounded by their
form, and one round trip moves this node by `STEP_MAX_S` at most. Pure; nothing is drawn.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import OrderedDict, deque
from dataclasses import dataclass

from beemesh.ids import NodeId

DIMENSIONS = 4
UNIT_S = 20e-6
"""Of the encoded form: 20 µs, so that 16 bits reach 0.65 s in each direction."""

ERROR_MAX = 1.5
ERROR_MIN = 0.01
"""Bounds on how wrong a node believes itself to be, as a part of a round trip."""

CE, CC = 0.25, 0.25
"""How quickly belief and place follow a sample (both papers)."""

HEIGHT_MIN_S = 20e-6
ADJUSTMENT_SAMPLES = 20
FILTER_SAMPLES = 3
"""Round trips of one peer of which the middle one counts: a single slow one means nothing."""

PEERS_MAX = 512
"""Peers whose last round trips are kept: those probed lately; a few numbers each."""

GRAVITY_S = 10.0
"""At so far from the origin gravity would pull by a second; at 0.1 s it is 0.1 ms."""

STEP_MAX_S = 0.025
"""The furthest that one round trip moves this node, whatever a peer says of itself."""

RTT_MAX_S = 5.0
"""Longer round trips tell of a stalled machine, not of the network."""

MOVED_S = 0.002
MOVED_SHARE = 0.2
"""How far a node must have moved for the mesh to hear of it before its summary is renewed anyway: so much, and so much
of its distance from the origin."""

_FORM = struct.Struct(f">{DIMENSIONS}hHhB")
_SAME_PLACE_S = 1e-6


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A place: `vector`, `height` and `adjustment` in seconds, `error` as a part of a round trip."""

    vector: tuple[float, ...] = (0.0,) * DIMENSIONS
    height: float = HEIGHT_MIN_S
    adjustment: float = 0.0
    error: float = ERROR_MAX

    def raw_s(self, other: Coordinate) -> float:
        """The round trip to `other` by place and heights alone."""
        return math.dist(self.vector, other.vector) + self.height + other.height

    def rtt_s(self, other: Coordinate) -> float:
        """The round trip to `other` that is to be expected, in seconds; never negative."""
        raw_s = self.raw_s(other)
        adjusted_s = raw_s + self.adjustment + other.adjustment
        return adjusted_s if adjusted_s > 0.0 else raw_s

    def encode(self) -> bytes:
        """The form that travels, `_FORM.size` bytes."""
        cells = [_cell(value, -32_768, 32_767) for value in self.vector]
        height, adjustment = _cell(self.height, 0, 65_535), _cell(self.adjustment, -32_768, 32_767)
        return _FORM.pack(*cells, height, adjustment, min(255, max(1, round(self.error * 100))))


def decode(form: bytes) -> Coordinate | None:
    """What travelled; None for anything that is no coordinate."""
    if len(form) != _FORM.size:
        return None
    *cells, height, adjustment, error = _FORM.unpack(form)
    vector = tuple(cell * UNIT_S for cell in cells)
    sound = min(ERROR_MAX, max(ERROR_MIN, error / 100))
    return Coordinate(vector, max(HEIGHT_MIN_S, height * UNIT_S), adjustment * UNIT_S, sound)


def has_moved(form: bytes, told: bytes) -> bool:
    """Whether a node is noticeably elsewhere than where it `told` to be; also when only one of both can be read."""
    here, there = decode(form), decode(told)
    if here is None or there is None:
        return here is not there
    far_s = math.dist(here.vector, (0.0,) * DIMENSIONS) + here.height
    moved_s = math.dist(here.vector, there.vector) + abs(here.height - there.height)
    return moved_s > max(MOVED_S, MOVED_SHARE * far_s)


class Coordinates:
    """One node's own place, which follows its round trips."""

    def __init__(self, self_id: NodeId) -> None:
        self.own = Coordinate()
        self._self_id = self_id
        self._samples = 0
        self._off: deque[float] = deque(maxlen=ADJUSTMENT_SAMPLES)
        self._last: OrderedDict[NodeId, deque[float]] = OrderedDict()

    def heard(self, peer: NodeId, form: bytes, rtt_s: float) -> None:
        """A peer that says to be at `form` answered after `rtt_s`. What makes no sense is left out."""
        there = decode(form)
        if there is None or not 0.0 < rtt_s <= RTT_MAX_S:
            return
        rtt_s = self._median(peer, rtt_s)
        self._samples += 1
        self._move(peer, there, rtt_s)
        self._off.append(rtt_s - self.own.raw_s(there))
        self._settle(sum(self._off) / (2 * ADJUSTMENT_SAMPLES))

    def rtt_s(self, form: bytes) -> float | None:
        """The round trip to be expected to whoever says to be at `form`; None without a coordinate there, or before
        this node has one of its own."""
        there = decode(form)
        return self.own.rtt_s(there) if there is not None and self._samples else None

    def _median(self, peer: NodeId, rtt_s: float) -> float:
        last = self._last.setdefault(peer, deque(maxlen=FILTER_SAMPLES))
        self._last.move_to_end(peer)
        while len(self._last) > PEERS_MAX:
            self._last.popitem(last=False)
        last.append(rtt_s)
        return sorted(last)[(len(last) - 1) // 2]

    def _move(self, peer: NodeId, there: Coordinate, rtt_s: float) -> None:
        own = self.own
        expected_s = own.rtt_s(there)
        wrong = min(ERROR_MAX, abs(expected_s - rtt_s) / rtt_s)
        weight = own.error / (own.error + there.error)
        error = CE * weight * wrong + own.error * (1.0 - CE * weight)
        step_s = max(-STEP_MAX_S, min(STEP_MAX_S, CC * weight * (rtt_s - expected_s)))
        gap_s = math.dist(own.vector, there.vector)
        if gap_s > _SAME_PLACE_S:
            away = tuple((mine - theirs) / gap_s for mine, theirs in zip(own.vector, there.vector, strict=True))
            grown_s = own.height + (own.height + there.height) * step_s / gap_s
            height = max(HEIGHT_MIN_S, min(grown_s, own.height + STEP_MAX_S))
        else:
            away, height = self._some_direction(peer), own.height
        vector = tuple(place + step_s * part for place, part in zip(own.vector, away, strict=True))
        self.own = Coordinate(vector, height, own.adjustment, min(ERROR_MAX, max(ERROR_MIN, error)))

    def _some_direction(self, peer: NodeId) -> tuple[float, ...]:
        """Away from a peer at the very same place: any direction does, if both do not choose the same."""
        seed = hashlib.sha256(self._self_id + peer + self._samples.to_bytes(8, "big")).digest()
        parts = [int.from_bytes(seed[2 * at : 2 * at + 2], "big") - 32_767.5 for at in range(DIMENSIONS)]
        length = math.hypot(*parts)
        return tuple(part / length for part in parts)

    def _settle(self, adjustment_s: float) -> None:
        """Take the adjustment, and let gravity pull: all nodes together must not drift away."""
        own = self.own
        far_s = math.hypot(*own.vector)
        pull = min(1.0, far_s / GRAVITY_S**2) if far_s else 0.0
        vector = tuple(place * (1.0 - pull) for place in own.vector)
        bounded_s = max(-STEP_MAX_S, min(STEP_MAX_S, adjustment_s))
        self.own = Coordinate(vector, own.height, bounded_s, own.error)


def _cell(value: float, low: int, high: int) -> int:
    return min(high, max(low, round(value / UNIT_S)))
