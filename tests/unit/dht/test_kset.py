"""K-sets: who answers for a key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beemesh.dht.kset import nearest, point_of
from beemesh.ids import NodeId

IDS = st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=80)
CLOSE = st.lists(st.integers(0, 2**12), unique=True, max_size=80).map(lambda xs: [x.to_bytes(32, "big") for x in xs])


@given(ids=st.one_of(IDS, CLOSE), key=st.text(max_size=20), k=st.integers(1, 12))
def test_halving_finds_what_sorting_all_would(ids: list[bytes], key: str, k: int) -> None:
    """Of any sorted ids, the k nearest by XOR, nearest first."""
    members = tuple(NodeId(each) for each in sorted(ids))
    point = point_of(key)
    expected = sorted(members, key=lambda node_id: int.from_bytes(node_id, "big") ^ point)[:k]
    assert nearest(members, key, k) == tuple(expected)
