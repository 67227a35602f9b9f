"""A flood of bad datagrams at a real agent: its memory stays where it is, and a good peer is still answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.bare_mesh import BareMesh
from bench.datagram import GROWTH_AIM_MIB, measure_floods

pytestmark = pytest.mark.timeout(180)

KINDS = {
    "garbage under made-up names": {"undeciphered", "budget"},
    "wrong key epoch, a member's name": {"key_epoch"},
    "stale, of a member": {"clock_skew"},
    "replayed, of a member": {"replayed"},
    "unknown sender": {"unknown_sender", "budget"},
    "forged, of the good peer": {"signature", "budget"},
    "oversized": {"oversized"},
}
"""Kind → the reasons under which it must show on `/metrics`; what was too much to look at is an `overrun`."""
COUNT = 10_000


def test_floods_cost_no_memory_and_silence_nobody(tmp_path: Path) -> None:
    """Ten thousand bad datagrams of each kind, as fast as they can be sent: counted by reason, at most 10 MiB of
    memory for all of them together, and every ping of a good peer is answered within its timeout."""
    rows = {row["kind"]: row for row in measure_floods(BareMesh(tmp_path, 3), COUNT, list(KINDS))}

    assert sum(row["growth_mib"] for row in rows.values()) <= GROWTH_AIM_MIB
    for kind, reasons in KINDS.items():
        refused = rows[kind]["refused"]
        assert reasons & set(refused), (kind, refused)
        assert set(refused) <= reasons | {"overrun"}, (kind, refused)
        assert sum(refused.values()) > COUNT / 2, (kind, refused)
    assert {kind: row["unanswered"] for kind, row in rows.items()} == dict.fromkeys(KINDS, 0)
