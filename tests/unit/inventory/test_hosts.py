"""Ranges and limits choose the hosts that Ansible would choose."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.errors import InvalidInput
from beemeshctl.inventory.hosts import MAX_RANGE_HOSTS, expand, limit

HOSTS = ["web1", "web2", "web3", "db1", "db2"]
GROUPS = {"all": HOSTS, "web": HOSTS[:3], "db": HOSTS[3:], "east": ["web1", "db1"]}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("plain", ["plain"]),
        ("n[1:3]", ["n1", "n2", "n3"]),
        ("n[01:03].lan", ["n01.lan", "n02.lan", "n03.lan"]),
        ("n[08:12:2]", ["n08", "n10", "n12"]),
        ("r[a:c]", ["ra", "rb", "rc"]),
        ("n[:2]", ["n0", "n1", "n2"]),
        ("r[a:b]n[1:2]", ["ran1", "ran2", "rbn1", "rbn2"]),
    ],
)
def test_ranges_expand_as_in_ansible(pattern: str, names: list[str]) -> None:
    """Numbers keep their width, letters and steps work, several ranges multiply."""
    assert expand(pattern) == names


@pytest.mark.parametrize(
    "pattern", ["n[", "n]", "n[1]", "n[3:1]", "n[1:a]", "n[01:100]", "n[1:]", "n[1:9:0]", "n[1:99999]"]
)
def test_broken_ranges_are_refused(pattern: str) -> None:
    """A range that cannot be meant is an error, never an odd host."""
    with pytest.raises(InvalidInput):
        expand(pattern)


@given(st.text(alphabet="n[]:0123456789abz", max_size=24))
def test_no_pattern_makes_more_hosts_than_the_limit(pattern: str) -> None:
    """Whatever is typed, the answer is bounded or an error."""
    with contextlib.suppress(InvalidInput):
        assert len(expand(pattern)) <= MAX_RANGE_HOSTS


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("web2", ["web2"]),
        ("web", ["web1", "web2", "web3"]),
        ("web:db1", ["web1", "web2", "web3", "db1"]),
        ("db1,web1", ["web1", "db1"]),
        ("web:&east", ["web1"]),
        ("!web", ["db1", "db2"]),
        ("all:!east", ["web2", "web3", "db2"]),
        ("!east:web", ["web2", "web3"]),
        ("*1", ["web1", "db1"]),
        ("web[2:3]", ["web2", "web3"]),
        ("e*", ["web1", "db1"]),
    ],
)
def test_limits_choose_as_in_ansible(pattern: str, chosen: list[str]) -> None:
    """Additions first, then intersections, then exclusions, in the inventory's order."""
    assert limit(pattern, HOSTS, GROUPS) == chosen


def test_a_limit_that_names_nobody_says_who_was_meant() -> None:
    """A slip of the keyboard is answered with a guess."""
    with pytest.raises(InvalidInput) as caught:
        limit("wbe1", HOSTS, GROUPS)
    assert "did you mean web1?" in str(caught.value)


@pytest.mark.parametrize("pattern", ["web:&db", "zzz*", "~web.*"])
def test_a_limit_that_leaves_nobody_is_refused(pattern: str) -> None:
    """Nothing to do is an error, as a mistake is likelier than a wish."""
    with pytest.raises(InvalidInput):
        limit(pattern, HOSTS, GROUPS)
