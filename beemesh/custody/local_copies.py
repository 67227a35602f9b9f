"""What lets a machine restart its pods by itself (`restart: alone`): each manifest, sealed to the node's own key.

A copy is ciphertext under a key that never leaves the node; with `restart: with-peers` none is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from beemesh.crypto import Crypto
from beemesh.effects import Effects, Erase, Save
from beemesh.errors import Untrusted
from beemesh.scheduling.messages import LeaseProof, Task
from beemesh.secret import SecretBytes
from beemesh.undecodable import decoded_rows

TABLE = "copies"
COPIES_MAX = 2_000
"""Pods of one machine, and as many again that are on their way out."""


class _Copy(msgspec.Struct, frozen=True):
    task: Task
    fence: int
    proof: LeaseProof
    box: bytes


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """What is known of a copy without opening it: the task it was for, and the lease that allowed it."""

    pod: str
    task: Task
    fence: int
    proof: LeaseProof


class LocalCopies:
    """The copies of one node. Writing returns effects; opening needs the node's own key."""

    table = TABLE

    def __init__(self, crypto: Crypto) -> None:
        self._crypto = crypto
        self._copies: dict[str, _Copy] = {}

    def restore(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Take back what was saved."""
        kept = decoded_rows(rows, _Copy)
        self._copies = {key.decode(errors="replace"): copy for key, copy in kept if copy is not None}

    def keep(self, pod: str, task: Task, fence: int, proof: LeaseProof, plaintext: SecretBytes) -> Effects:
        """Seal `plaintext` to this node's own key and save it under the pod's name."""
        if pod not in self._copies and len(self._copies) >= COPIES_MAX:
            return []
        box = self._crypto.seal_to(self._crypto.open_key, plaintext.reveal())
        copy = _Copy(task, fence, proof, box)
        self._copies[pod] = copy
        return [Save(TABLE, pod.encode(), msgspec.msgpack.encode(copy))]

    def all(self) -> tuple[LocalCopy, ...]:
        """Every copy, sorted by pod."""
        return tuple(LocalCopy(pod, copy.task, copy.fence, copy.proof) for pod, copy in sorted(self._copies.items()))

    def open(self, pod: str) -> SecretBytes | None:
        """The plaintext; None when there is no copy, or when it does not open (then it is worth nothing)."""
        copy = self._copies.get(pod)
        if copy is None:
            return None
        try:
            return SecretBytes(self._crypto.open_box(copy.box))
        except Untrusted:
            return None

    def open_another(self, task: Task) -> SecretBytes | None:
        """What a copy for another replica of the same manifest holds: it is sealed to this machine already."""
        wanted = (task.workload_id, task.manifest_ref)
        for pod, copy in sorted(self._copies.items()):
            if (copy.task.workload_id, copy.task.manifest_ref) == wanted:
                return self.open(pod)
        return None

    def forget(self, pod: str) -> Effects:
        """Erase a copy."""
        return [Erase(TABLE, pod.encode())] if self._copies.pop(pod, None) is not None else []
