"""Every body that somebody signs, by the kind it is signed as: what the mesh believes beyond one hop, and what nodes of
another version read. Kinds are for ever. Datagrams and requests are signed too, over bytes that are no struct."""

from __future__ import annotations

import msgspec

from beemesh.custody.messages import OPERATOR_READ_KIND, OperatorRead
from beemesh.dht.records import RECORD_KIND, Record
from beemesh.identity.grants import Grant, Revocation
from beemesh.identity.key_rotation import Rotation
from beemesh.identity.membership_card import ConfigStatement, Membership, SealedRing
from beemesh.intents.record import SIGNED_KIND, Cordon, Intent, IntentKind
from beemesh.membership.claims import STATEMENTS as CLAIMS
from beemesh.scheduling import messages as scheduling
from beemesh.workloads.budgets import Budget
from beemesh.workloads.policies import PriorityClass, Quota
from beemesh.workloads.record import SealedObject, Workload

STATEMENTS: dict[str, type[msgspec.Struct]] = {
    **CLAIMS,
    scheduling.TASK_KIND: scheduling.Task,
    scheduling.BID_KIND: scheduling.Bid,
    scheduling.LEASE_KIND: scheduling.Lease,
    scheduling.VERDICT_KIND: scheduling.Verdict,
    scheduling.EVENT_KIND: scheduling.Event,
    scheduling.TASK_DIGEST_KIND: scheduling.TaskDigest,
    scheduling.EVENT_WATCH_KIND: scheduling.EventWatch,
    RECORD_KIND: Record,
    OPERATOR_READ_KIND: OperatorRead,
    SIGNED_KIND: Intent,
    "config": ConfigStatement,
    "gossip-ring": SealedRing,
}
"""Signed kind → body."""

INTENT_BODIES: dict[IntentKind, type[msgspec.Struct]] = {
    "membership": Membership,
    "grant": Grant,
    "revocation": Revocation,
    "workload": Workload,
    "object": SealedObject,
    "cordon": Cordon,
    "ring": Rotation,
    "budget": Budget,
    "quota": Quota,
    "priority": PriorityClass,
}
"""Kind of an intent → the body inside that of the signed intent; a tombstone has none."""

BODIES: dict[str, type[msgspec.Struct]] = {
    **STATEMENTS,
    **{f"{SIGNED_KIND}/{kind}": body for kind, body in INTENT_BODIES.items()},
}
"""All of them, those inside an intent as `intent/<its kind>`."""
