"""Directories alone, without membership: what they say goes through the real encoding, under a virtual clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Hashable, Iterable
from itertools import count
from typing import Any

import msgspec

from beemesh.dht.contacts import Contacts
from beemesh.dht.directory import Directory
from beemesh.dht.records import Domain, RecordType
from beemesh.effects import Answered, Asked, Cancel, Notify, Now, Reply, Request, Schedule, TimerFired
from beemesh.events import FindProviders, ProvidersFound
from beemesh.ids import NodeId
from beemesh.wire.registry import decode_message, encode_message
from simulator.crypto import FakeCrypto

WALL_MS = 1_800_000_000_000


class Plane:
    """Directories that reach each other in a millisecond; `silent` ones never answer."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.nodes: dict[NodeId, Directory] = {}
        self.silent: set[NodeId] = set()
        self.told: list[tuple[NodeId, Any]] = []
        self.asked = 0
        self._acts: dict[tuple[NodeId, type], Callable[[Any], Any]] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count(1)
        self._timers: dict[tuple[NodeId, Hashable], int] = {}
        self._replies: dict[int, Callable[[msgspec.Struct], None]] = {}

    def add(self, crypto: FakeCrypto, domain: Domain, contacts: Contacts) -> None:
        """Start a directory of the machine plane."""
        node_id = NodeId(crypto.signer_id)
        self.join(node_id, Directory(node_id, domain, contacts, crypto, self.random, self.number))

    def join(self, node_id: NodeId, directory: Directory) -> None:
        """Start a directory."""
        self.nodes[node_id] = directory
        self._carry(node_id, directory.start(self.now))

    def on(self, node_id: NodeId, kind: type, act: Callable[[Any], Any]) -> None:
        """Do something with what a directory tells."""
        self._acts[node_id, kind] = act

    def number(self) -> int:
        """A number that was not used before."""
        return next(self._numbers)

    @property
    def now(self) -> Now:
        """This moment, everywhere."""
        return Now(self.now_s, WALL_MS + int(self.now_s * 1000))

    def event(self, node_id: NodeId, event: Any) -> None:
        """Hand an event to a directory."""
        self._carry(node_id, self.nodes[node_id].handle(event, self.now))

    def run_for(self, seconds: float) -> None:
        """Advance the clock."""
        end_s = self.now_s + seconds
        while self._heap and self._heap[0][0] <= end_s:
            self.now_s, _, action = heapq.heappop(self._heap)
            action()
        self.now_s = end_s

    def providers(self, node_id: NodeId, kind: RecordType, subject: str) -> set[NodeId]:
        """Who is found from one node."""
        ref = f"{next(self._numbers)}"
        self.event(node_id, FindProviders(ref, kind, subject))
        self.run_for(6)
        found = [event for _, event in self.told if isinstance(event, ProvidersFound) and event.ref == ref]
        assert len(found) == 1, "a search ends once"
        return set(found[0].nodes)

    def keepers(self, point: bytes) -> set[NodeId]:
        """Who keeps something at a point."""
        return {node_id for node_id, each in self.nodes.items() if each.store.at(point, self.now)}

    def _at(self, at_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (at_s, next(self._numbers), action))

    def _carry(self, node_id: NodeId, effects: Iterable[Any]) -> None:
        for effect in effects:
            match effect:
                case Schedule(key=key, at_boot_s=at_s):
                    self._schedule(node_id, key, at_s)
                case Cancel(key=key):
                    self._timers.pop((node_id, key), None)
                case Request():
                    self._ask(node_id, effect)
                case Reply(token=token, message=message):
                    self._replies.pop(token)(message)
                case Notify(event=event):
                    self.told.append((node_id, event))
                    self._acts.get((node_id, type(event)), _nothing)(event)

    def _schedule(self, node_id: NodeId, key: Hashable, at_s: float) -> None:
        number = self._timers[node_id, key] = next(self._numbers)

        def fire() -> None:
            if self._timers.get((node_id, key)) == number:
                self.event(node_id, TimerFired(key))

        self._at(at_s, fire)

    def _ask(self, asker: NodeId, request: Request) -> None:
        self.asked += 1
        token = next(self._numbers)

        def answer(message: msgspec.Struct | None) -> None:
            self.event(asker, Answered(request.request_id, request.to, message))

        if request.to in self.silent or request.to not in self.nodes or asker in self.silent:
            self._at(self.now_s + request.deadline_s, lambda: answer(None))
            return

        def reply(message: msgspec.Struct) -> None:
            copied = _copied(message)
            self._at(self.now_s + 0.001, lambda: answer(copied))

        self._replies[token] = reply
        asked = Asked(asker, token, _copied(request.message))
        self._at(self.now_s + 0.001, lambda: self.event(request.to, asked))


def _copied(message: msgspec.Struct) -> msgspec.Struct:
    decoded = decode_message(*encode_message(message))
    assert decoded is not None
    return decoded


def _nothing(event: Any) -> None:
    """Nobody listens."""
