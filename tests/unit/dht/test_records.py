"""Records: who may say what, which of two stands, and what a store refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.dht import store as store_module
from beemesh.dht.messages import FOUND_BYTES_MAX
from beemesh.dht.records import (
    MACHINE_RECORDS,
    RECORD_KIND,
    TTL_MS_MAX,
    WORK_RECORDS,
    Domain,
    Record,
    open_record,
)
from beemesh.dht.store import RecordStore
from beemesh.effects import Now
from beemesh.errors import Untrusted
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import to_text
from simulator.crypto import FakeCrypto

WRITER, OTHER, STRANGER = (FakeCrypto(name) for name in (b"one", b"two", b"nobody"))
KEYS = {each.signer_id: each.sign_key for each in (WRITER, OTHER)}
MACHINES = Domain("home", MACHINE_RECORDS, KEYS.get)
WALL_MS = 1_800_000_000_000
NOW = Now(100.0, WALL_MS)


def record(by: FakeCrypto = WRITER, **changes: Any) -> Record:
    """That somebody keeps manifest `m`."""
    plain = Record("home", "manifest", "m", by.signer_id, 0, 1, WALL_MS, 60_000)
    return msgspec.structs.replace(plain, **changes)


def signed(body: Record, by: FakeCrypto = WRITER) -> Signed:
    """A record under somebody's signature."""
    return sign_statement(by, RECORD_KIND, body)


def put(store: RecordStore, body: Record, now: Now = NOW) -> str:
    """Empty when the record was kept, else why not."""
    return store.put(body, signed(body), now).reason


def test_a_members_own_word_is_believed() -> None:
    """Signed by its writer, in its domain, and alive."""
    body = record()
    assert open_record(WRITER, MACHINES, signed(body), WALL_MS) == body


@pytest.mark.parametrize(
    ("changes", "by", "why"),
    [
        ({"domain": "home.work"}, WRITER, "does not belong to home"),
        ({"type": "service"}, WRITER, "does not belong to home"),
        ({"writer": OTHER.signer_id}, WRITER, "another than its signer"),
        ({"writer": STRANGER.signer_id}, STRANGER, "nobody of home"),
        ({"type": "presence", "subject": to_text(OTHER.signer_id)}, WRITER, "its own presence alone"),
        ({"subject": "x" * 301}, WRITER, "1 to 300 characters"),
        ({"ttl_ms": TTL_MS_MAX + 1}, WRITER, "lives 5000 to"),
        ({"issued_ms": WALL_MS + 31_000}, WRITER, "from the future"),
        ({"issued_ms": WALL_MS - 60_000}, WRITER, "has expired"),
        ({"value": bytes(1_100)}, WRITER, "1024 bytes at most"),
    ],
)
def test_what_a_writer_may_not_say(changes: dict[str, Any], by: FakeCrypto, why: str) -> None:
    """Each rule refuses, and names itself."""
    with pytest.raises(Untrusted, match=why):
        open_record(WRITER, MACHINES, signed(record(**changes), by), WALL_MS)


def test_neither_plane_takes_the_others_records() -> None:
    """Same writer and subject, other domain: refused both ways, by name and by type."""
    work = Domain("home.work", WORK_RECORDS, KEYS.get)
    theirs = signed(record(domain="home.work", type="service"))
    assert open_record(WRITER, work, theirs, WALL_MS).type == "service"
    with pytest.raises(Untrusted):
        open_record(WRITER, MACHINES, theirs, WALL_MS)
    with pytest.raises(Untrusted):
        open_record(WRITER, work, signed(record()), WALL_MS)
    assert record().point != record(domain="home.work").point


def test_a_forged_signature_is_refused() -> None:
    """A record whose bytes were altered under way is worth nothing."""
    good = signed(record())
    bad = Signed(good.kind, msgspec.msgpack.encode(record(seq=9)), good.signer, good.signature)
    with pytest.raises(Untrusted, match="does not verify"):
        open_record(WRITER, MACHINES, bad, WALL_MS)


def test_of_one_writer_the_newest_stands() -> None:
    """Older ones are told which stands; writers stand side by side."""
    store = RecordStore()
    assert put(store, record(seq=2)) == ""
    verdict = store.put(record(seq=1), signed(record(seq=1)), NOW)
    assert (verdict.ok, verdict.reason, verdict.newer) == (False, "stale", signed(record(seq=2)))
    assert "that number" in put(store, record(seq=2, value=b"x"))
    assert put(store, record(epoch=1, seq=0)) == ""
    assert store.put(record(OTHER), signed(record(OTHER), OTHER), NOW).ok
    assert len(store.at(record().point, NOW)) == 2


def test_a_record_dies_by_the_stores_own_clock() -> None:
    """What is left of its life when it comes counts from there, even if the wall clock jumps."""
    store = RecordStore()
    put(store, record(issued_ms=WALL_MS - 20_000))
    assert store.at(record().point, Now(139.0, WALL_MS - 10**9))
    assert not store.at(record().point, Now(140.0, WALL_MS))
    assert put(store, record(seq=0), Now(141.0, WALL_MS + 41_000)) == ""  # the newer one has died
    assert store.sweep(Now(1_000.0, WALL_MS)) == 1
    assert len(store) == 0


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """By writer, by key and in all; what is there already may always be renewed."""
    monkeypatch.setattr(store_module, "PER_WRITER_MAX", 2)
    monkeypatch.setattr(store_module, "PER_KEY_MAX", 1)
    store = RecordStore()
    assert [put(store, record(subject=name)) for name in "ab"] == ["", ""]
    assert "its writer has 2" in put(store, record(subject="c"))
    assert put(store, record(subject="a", seq=2)) == ""
    assert "1 writers" in store.put(record(OTHER, subject="a"), signed(record(OTHER, subject="a"), OTHER), NOW).reason
    store.forget(WRITER.signer_id)
    assert len(store) == 0
    assert put(store, record(subject="c")) == ""


def test_a_flood_of_one_writer_costs_nobody_elses_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a full store the writer that has most gives way, and gets no more; the others come in."""
    monkeypatch.setattr(store_module, "RECORDS_MAX", 10)
    store = RecordStore()
    assert [put(store, record(subject=f"m{number}", ttl_ms=60_000 + number)) for number in range(10)] == [""] * 10
    assert "no writer has more" in put(store, record(subject="one more"))
    assert store.put(record(OTHER, subject="o"), signed(record(OTHER, subject="o"), OTHER), NOW).ok
    assert len(store) == 10
    assert not store.at(record(subject="m0").point, NOW), "the one that ends first made room"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=30))
def test_the_order_of_arrival_does_not_matter(versions: list[tuple[int, int]]) -> None:
    """Whatever comes when, the highest (epoch, seq) stands."""
    store = RecordStore()
    for epoch, seq in versions:
        put(store, record(epoch=epoch, seq=seq))
    kept = [each.record.version for each in store.at(record().point, NOW)]
    assert kept == ([max(versions)] if versions else [])


def test_what_was_verified_is_known_again() -> None:
    """The very same statement needs no second look; another signature over the same words does."""
    store = RecordStore()
    put(store, record())
    point, same = record().point, signed(record())
    assert store.has(point, same, NOW)
    assert not store.has(point, Signed(same.kind, same.body, same.signer, bytes(64)), NOW)
    assert not store.has(point, same, Now(NOW.boot_s + 61, WALL_MS))


def test_nobody_hides_a_record_behind_many() -> None:
    """Of more than an answer takes, each keeper shows others: all together show all, the small ones everywhere."""
    store = RecordStore()
    crowd = [FakeCrypto(f"many {number}".encode()) for number in range(150)]
    for each in crowd:
        body = record(each, value=bytes(700))
        store.put(body, signed(body, each), NOW)
    small = signed(record())
    store.put(record(), small, NOW)
    answers = [store.shown(record().point, bytes([keeper]) * 32, NOW) for keeper in range(8)]
    assert all(small in answer for answer in answers)
    assert all(sum(len(each.body) for each in answer) <= FOUND_BYTES_MAX for answer in answers)
    assert len({each.signer for answer in answers for each in answer}) == len(crowd) + 1
