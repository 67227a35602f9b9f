"""Targets: a whole node, under what a member with real keys may send it, and with a disk that was garbled.

A few nodes of the simulator live a while, and all that they said to each other is where mutants begin. What a mutant
says over the hostile member's name, that member signs anew, so that it gets past signatures to what lies behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from beemesh.composition import compose
from beemesh.effects import Now, Reply
from beemesh.events import ResourcesObserved
from beemesh.identity.signing import Signed, payload_of
from beemesh.ids import BootId
from beemesh.outward import Ask, Outward
from beemesh.settings import NodeIdentity, NodeSettings
from beemesh.topics.messages import TopicMessage
from beemesh.wire.registry import CODES, TYPES, decode_message, encode_message
from simulator.world import MESH, World
from tests.fuzz.examples import encoded_example
from tests.fuzz.target import Call, Target
from tests.unit.simulator.test_whole_nodes import submit, world_of

VICTIM, HOSTILE = 0, 1
LIFE_INPUTS = 300
"""After so many inputs a victim is made anew: what the first ones did to it must not hide what the next ones find."""
SAMPLES_PER_TYPE = 6


@cache
def _lived() -> tuple[World, dict[type, list[bytes]], dict[str, list[tuple[bytes, bytes]]]]:
    """(a world, messages by type, rows by table) after an application came, ran and went."""
    said: dict[type, list[bytes]] = {}

    def note(message: msgspec.Struct) -> None:
        samples = said.setdefault(type(message), [])
        if len(samples) < SAMPLES_PER_TYPE and type(message) in CODES:
            samples.append(encode_message(message)[1])

    world = world_of(3)
    for machine in world.machines:
        node = machine.composition
        assert node is not None
        _listen(node.node, note)
    submit(world, 2)
    world.run_for(15)
    world.kill(2)
    world.run_for(20)
    rows: dict[str, list[tuple[bytes, bytes]]] = {}
    for machine in world.machines:
        for (table, key), value in machine.disk.items():
            rows.setdefault(table, []).append((key, value))
    return world, said, rows


def _listen(node: Any, note: Any) -> None:
    """Take a note of every message that a node is handed."""
    for name in ("told", "asked", "answer"):
        inner = getattr(node, name)

        def outer(*words: Any, _inner: Any = inner) -> Any:
            for word in words:
                if isinstance(word, msgspec.Struct):
                    note(word)
            return _inner(*words)

        setattr(node, name, outer)
    run_event = node._run_event

    def received(event: Any, now: Now) -> Any:
        message = getattr(event, "message", None)
        if isinstance(message, msgspec.Struct):
            note(message)
        return run_event(event, now)

    node._run_event = received


class Victim:
    """A node with the rows of another's disk, that is told, asked and answered by a hostile member."""

    def __init__(self) -> None:
        self._world, _, self._rows = _lived()
        self._hostile = self._world.machines[HOSTILE]
        self._inputs = 0
        self._made()

    def _made(self) -> None:
        world, machine = self._world, self._world.machines[VICTIM]
        settings = NodeSettings(mesh=MESH, node=NodeIdentity(name=machine.membership.name))
        self.composition = compose(
            settings,
            machine.membership,
            machine.card,
            world.ca.sign_key,
            world.ring,
            machine.crypto,
            world.random,
            BootId(bytes(16)),
        )
        self.node = self.composition.node
        self.now = Now(1_000.0, world.wall_ms)
        self._asked: list[Ask] = []
        for record in world.records:
            self.composition.intents.merge(record, self.now)
        for table in self.node.tables():
            self.node.restore(table, self._rows.get(table, []), self.now)
        self._carry(self.node.start(self.now))
        self._carry(self.node.event(ResourcesObserved(4000, 8192, 100_000, 0.1, 6000, 80_000), self.now))

    def _carry(self, effects: Outward) -> None:
        """What leaves must have a shape that leaves."""
        for effect in effects:
            if isinstance(effect, Ask):
                self._asked = [*self._asked, effect][-20:]
                encode_message(effect.message)
            elif isinstance(effect, Reply):
                encode_message(effect.message)

    def hear(self, data: bytes) -> None:
        """Decode a message (its number in front), sign what it says over the hostile name, and hand it over."""
        self._inputs += 1
        if self._inputs > LIFE_INPUTS:
            self._inputs = 0
            self._made()
        message = decode_message(int.from_bytes(data[:2], "big"), data[2:])
        if message is None:
            return
        if isinstance(message, TopicMessage):  # else it would be a copy of one that came before
            message = msgspec.structs.replace(message, id=self._inputs.to_bytes(16, "big"))
        message = self._resigned(message)
        peer = self._hostile.membership.node_id
        self.now = Now(self.now.boot_s + 0.05, self.now.wall_ms + 50)
        self._carry(self.node.told(peer, message, self.now))
        self._carry(self.node.asked(peer, self._inputs, message, self.now))
        if self._asked:
            asked = self._asked.pop()
            self._carry(self.node.answer(asked.request_id, asked.peer, message, "", self.now))

    def _resigned(self, message: msgspec.Struct) -> msgspec.Struct:
        tree = self._signed_anew(msgspec.to_builtins(message, builtin_types=(bytes,)))
        code, body = CODES[type(message)], msgspec.msgpack.encode(tree)
        return decode_message(code, body) or message

    def _signed_anew(self, tree: Any) -> Any:
        """Every signed statement of the tree by the hostile member, the CA or the operator, signed by them."""
        if isinstance(tree, list | tuple):
            return [self._signed_anew(each) for each in tree]
        if not isinstance(tree, dict):
            return tree
        tree = {key: self._signed_anew(value) for key, value in tree.items()}
        if set(tree) == set(Signed.__struct_fields__) and isinstance(tree["body"], bytes):
            holder = self._holders().get(tree["signer"])
            if holder is not None:
                kind = tree["kind"].encode("ascii", "replace").decode()
                tree["signature"] = holder.sign(payload_of(kind, tree["body"]))
        return tree

    def _holders(self) -> dict[bytes, Any]:
        world = self._world
        return {crypto.signer_id: crypto for crypto in (self._hostile.crypto, world.operator)}


def _messages() -> Sequence[bytes]:
    _, said, _ = _lived()
    found = []
    for code, kind in TYPES.items():
        bodies = said.get(kind) or [encoded_example(kind)]
        found += [code.to_bytes(2, "big") + body for body in bodies]
    return found


def _on_topics() -> Sequence[bytes]:
    _, said, _ = _lived()
    return [
        CODES[TopicMessage].to_bytes(2, "big") + body
        for body in said.get(TopicMessage, [encoded_example(TopicMessage)])
    ]


def _hear() -> Call:
    return Victim().hear


def _rows() -> Sequence[bytes]:
    """Each row with its table's place in front."""
    _, _, rows = _lived()
    tables = _tables()
    return [
        bytes([tables.index(table)]) + value for table, found in rows.items() for _, value in found[:SAMPLES_PER_TYPE]
    ]


@cache
def _tables() -> tuple[str, ...]:
    world, _, _ = _lived()
    return world.node(VICTIM).node.tables()


def _restore() -> Call:
    """A node starts with a row that a broken disk garbled, beside the good ones."""
    world, _, rows = _lived()
    machine = world.machines[VICTIM]
    tables = _tables()

    def call(data: bytes) -> None:
        table = tables[data[0] % len(tables)] if data else tables[0]
        settings = NodeSettings(mesh=MESH, node=NodeIdentity(name=machine.membership.name))
        composition = compose(
            settings,
            machine.membership,
            machine.card,
            world.ca.sign_key,
            world.ring,
            machine.crypto,
            world.random,
            BootId(bytes(16)),
        )
        now = Now(1_000.0, world.wall_ms)
        composition.intents.merge(machine.card, now)
        for name in composition.node.tables():
            kept = rows.get(name, [])
            if name == table:
                key = kept[0][0] if kept and len(data) % 2 else data[1:9]
                kept = [*kept[1:], (key, data[1:])]
            composition.node.restore(name, kept, now)
        composition.node.start(now)

    return call


TARGETS = (
    Target("member", "msgpack", _hear, _messages, head=2),
    Target("member-on-topics", "msgpack", _hear, _on_topics, head=2),
    Target("state-rows", "msgpack", _restore, _rows, slow=True, head=1),
)
