"""What records with a false signature cost their sender: each costs a verification, and a message holds thousands."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.rates import Rates

FORGED_BURST = 16.0
FORGED_PER_S = 1 / 60
"""Records with a false signature that one member may send over streams: honest members check what they pass on. Who
sent so many is not listened to until a minute later."""

REFUSED_KEPT = 1_024


class Forgeries:
    """One node's memory of forged records, and of who sent them. One that a broken disk made is sent again at every
    comparison: it is known by its digest, and held against nobody twice."""

    def __init__(self) -> None:
        self._rates = Rates(FORGED_PER_S, FORGED_BURST)
        self._refused: OrderedDict[bytes, None] = OrderedDict()

    def is_forger(self, sender: NodeId, boot_s: float) -> bool:
        """Whether a member sent so many lately that nothing it sends is worth a verification."""
        return self._rates.is_empty(sender, boot_s)

    def is_known(self, signed: Signed) -> bool:
        """Whether this very record was found to be forged before."""
        return _digest(signed) in self._refused

    def note(self, sender: NodeId, signed: Signed, boot_s: float) -> None:
        """A member sent a forged record that was not known before."""
        self._refused[_digest(signed)] = None
        while len(self._refused) > REFUSED_KEPT:
            self._refused.popitem(last=False)
        self._rates.take(sender, boot_s)


def _digest(signed: Signed) -> bytes:
    return hashlib.sha256(b"".join((signed.kind.encode(), signed.signer, signed.signature, signed.body))).digest()
