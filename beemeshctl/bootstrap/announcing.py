"""Telling a mesh that is already running about what the CA signed since: cards of joiners, and revocations.

A node is known to its mesh by its signed card alone. Those that start with the card in their seed need nothing; all
others get it from any one of them, to which it is handed as an operator's submission.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from beemesh.crypto import KEY_BYTES
from beemesh.identity.key_rotation import RING_KEY, rotation
from beemesh.identity.requests import NONCE_BYTES, sign_request
from beemesh.identity.signing import Signed, decode_body
from beemesh.intents.record import Intent, sign_intent
from beemeshctl.bootstrap.signing import Authority, card_in
from beemeshctl.clock import wall_ms
from beemeshctl.context import Home
from beemeshctl.keyfile import write_private

SUBMISSIONS = "/apis/beemesh.io/v1alpha1/submissions"


@dataclass(frozen=True, slots=True)
class Announcement:
    """A record, and the nodes that did not start with it."""

    record: Signed
    unaware: frozenset[str]

    @property
    def what(self) -> str:
        """The record's key, such as `node/n4`."""
        return decode_body(self.record, Intent).key


class Announcer:
    """Knows what still has to be said, and to whom."""

    def __init__(self, home: Home, authority: Authority) -> None:
        self._home = home
        self._authority = authority

    def pending(self) -> list[Announcement]:
        """What was neither announced before nor in every node's seed."""
        cards = self._authority.cards([])
        seeds = {name: self._seed(name) for name in cards}
        announced = self._announced()
        todo = []
        for record in [*self._authority.records(), *cards.values()]:
            own = next((name for name, card in cards.items() if card == record), "")
            unaware = frozenset(name for name, seed in seeds.items() if name != own and record not in seed)
            if unaware and _key(record) not in announced:
                todo.append(Announcement(record, unaware))
        if any(_kind(each.record) == "revocation" for each in todo):
            todo.append(Announcement(self._rotation(cards.values()), frozenset(cards)))
        return todo

    def _rotation(self, cards: Iterable[Signed]) -> Signed:
        """A new gossip key: whoever is revoked knows the old one (DESIGN section 3)."""
        operator, mesh, now_ms = self._home.operator(), self._home.context().mesh, wall_ms()
        members = [card_in(card) for card in cards]
        body = rotation(operator, mesh, members, secrets.token_bytes(KEY_BYTES), urgent=True)
        return sign_intent(operator, mesh, "ring", RING_KEY, body, now_ms, now_ms)

    def done(self, announcement: Announcement) -> None:
        """Remember that the mesh knows it now."""
        announced = sorted({*self._announced(), _key(announcement.record)})
        write_private(self._home.path / "announced.json", json.dumps(announced, indent=1).encode())

    def request(self, announcement: Announcement, socket: str) -> str:
        """The argument for the script that hands it over, signed by the operator."""
        body = msgspec.msgpack.encode({"record": announcement.record})
        now_ms = wall_ms()
        nonce = secrets.token_bytes(NONCE_BYTES)
        headers = sign_request(self._home.operator(), "POST", SUBMISSIONS, body, now_ms, nonce)
        headers["content-type"] = "application/msgpack"
        encoded = base64.b64encode(body).decode("ascii")
        return json.dumps({"socket": socket, "target": SUBMISSIONS, "headers": headers, "body": encoded})

    def _seed(self, name: str) -> Sequence[Signed]:
        path = self._home.node(name) / "intents.seed"
        return msgspec.msgpack.decode(path.read_bytes(), type=tuple[Signed, ...]) if path.is_file() else ()

    def _announced(self) -> set[str]:
        path = self._home.path / "announced.json"
        return set(json.loads(path.read_bytes())) if path.is_file() else set()


def _kind(record: Signed) -> str:
    return decode_body(record, Intent).kind


def _key(record: Signed) -> str:
    return record.signature.hex()
