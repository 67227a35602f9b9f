"""Changing the gossip key, and revoking a node or an operator: records that are signed here and put at any agent."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Literal, cast

import click
import msgspec

from beemesh.crypto import KEY_BYTES
from beemesh.errors import InvalidInput, NotFound, Unreachable
from beemesh.identity.grants import Grant
from beemesh.identity.key_rotation import RING_KEY, epoch_of, rotation
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed, decode_body
from beemesh.ids import NodeId
from beemesh.intents.record import Intent, operator_key, sign_intent
from beemeshctl.bootstrap.signing import Authority
from beemeshctl.client import BEEMESH, Client
from beemeshctl.clock import wall_ms
from beemeshctl.context import find_home
from beemeshctl.keyfile import Passphrase

Subject = Literal["node", "operator"]


def rotate(client: Client, *, urgent: bool = False, without: bytes = b"") -> int:
    """Put a new gossip key, signed by our own grant and sealed to every member but `without`; its epoch."""
    roster, _ = client.roster()
    standing = client.records(kind="ring").get(RING_KEY)
    after = decode_body(standing, Intent).seq if standing is not None else 0
    members = [member for member in roster.members() if member.node_id != without]
    record = rotation_record(client, members, after, urgent=urgent)
    client.post(f"{BEEMESH}/submissions", {"record": record})
    return epoch_of_record(record)


def rotation_record(client: Client, members: Iterable[Membership], after: int, *, urgent: bool) -> Signed:
    """A fresh key in a signed record; the key itself is kept nowhere."""
    now_ms = wall_ms()
    body = rotation(client.operator, client.mesh, members, secrets.token_bytes(KEY_BYTES), urgent=urgent)
    return sign_intent(client.operator, client.mesh, "ring", RING_KEY, body, max(now_ms, after + 1), now_ms)


def epoch_of_record(record: Signed) -> int:
    """The epoch that a rotation names."""
    from beemesh.identity.key_rotation import Rotation

    return epoch_of(msgspec.msgpack.decode(decode_body(record, Intent).body, type=Rotation).commitment)


def revoke(subject: str, name: str, reason: str, via: str) -> None:
    """Revoke a node or an operator by name, and change the gossip key, both through an agent that stays.

    Raises `NotFound` for a name that nobody bears, `InvalidInput` for the last node and for ourselves.
    """
    home = find_home()
    client = Client(home, via=via)
    roster, states = client.roster()
    kind = cast("Subject", subject)
    subject_id: bytes
    if kind == "node":
        subject_id = _node_id(roster.named(name), name, len(roster.members()))
        if not via or via == name:
            by_name = {card.name: states[bytes(card.node_id)] for card in roster.members()}
            client = _through_another(client, name, by_name)
    else:
        subject_id = _operator_id(client, name)
    authority = Authority(home, Passphrase(ask=lambda text: str(click.prompt(text.rstrip(": "), hide_input=True))))
    record = authority.revoke(kind, subject_id, name, reason, wall_ms())
    client.post(f"{BEEMESH}/submissions", {"record": record})
    if kind == "node":
        home.forget_node(name)
    rotate(client, urgent=True, without=subject_id)


def check_removal(client: Client, name: str) -> None:
    """Raise what `revoke` would for a node, before anything is done."""
    roster, _ = client.roster()
    _node_id(roster.named(name), name, len(roster.members()))


def _node_id(card: Membership | None, name: str, members: int) -> NodeId:
    if card is None:
        raise NotFound(f'nodes "{name}" not found', hint="`beemeshctl get nodes` lists them; it may be revoked already")
    if members == 1:
        raise InvalidInput(f"{name} is the last node of this mesh", hint="stop its agent instead")
    return card.node_id


def _operator_id(client: Client, name: str) -> bytes:
    found = client.records(kind="grant").get(operator_key(name))
    if found is None:
        raise NotFound(f"no operator {name!r} has a grant in this mesh")
    grant = msgspec.msgpack.decode(decode_body(found, Intent).body, type=Grant)
    if grant.operator_id == client.operator.signer_id:
        raise InvalidInput(f"{name} is the operator of this very home", hint="revoke it from another admin's home")
    return bytes(grant.operator_id)


def _through_another(client: Client, name: str, states: dict[str, str]) -> Client:
    """A client of an agent that stays, so that the record does not depend on the one that goes."""
    for agent in client.context.agents:
        if agent.name != name and states.get(agent.name) in ("alive", "suspect"):
            return Client(client.home, via=agent.name)
    raise Unreachable(f"no agent other than {name} is up to take its revocation", hint="start one of the others first")
