"""`node.yaml` is read strictly, and every mistake is explained with the value's own documentation."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh import settings
from beemesh.errors import InvalidInput

LEAST: dict[str, Any] = {"mesh": "home", "node": {"name": "n1"}}


def test_the_least_file_gets_every_default() -> None:
    """What the documentation promises as default is what an agent runs with."""
    read = settings.decode(LEAST)
    assert (read.listen.gossip, read.listen.api) == ("0.0.0.0:7946", "0.0.0.0:7947")
    assert (read.scheduler.selection_window_ms, read.scheduler.lease_ttl_ms) == (250, 3000)
    assert (read.runtime.engine, read.reserve.mem_mb, read.node.labels) == ("podman", 512, {})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sceduler": {}}, "sceduler: unknown key (did you mean scheduler?)"),
        ({"scheduler": {"lease_tl_ms": 3}}, "scheduler.lease_tl_ms: unknown key (did you mean lease_ttl_ms?)"),
        ({"scheduler": {"lease_ttl_ms": 3}}, "scheduler.lease_ttl_ms: expected int >= 500"),
        ({"scheduler": {"lease_ttl_ms": 3}}, "Unit: ms. Range: 500 to 60000."),
        ({"scheduler": {"lease_ttl_ms": 1500}}, "more than half of lease_ttl_ms"),
        ({"membership": {"probe_timeout_ms": 1000}}, "must be below probe_interval_ms"),
        ({"scheduler": {"weights": {"fit": 0, "locality": 0, "reliability": 0, "qos": 0}}}, "at least one weight"),
        ({"listen": {"api": "0.0.0.0:99999"}}, "listen.api: '0.0.0.0:99999' is not an address with a port"),
        ({"listen": {"api": "0.0.0.0:7946"}}, "port 7946 is taken by listen.gossip"),
        ({"seeds": ["10.0.0.1"]}, "seeds[0]"),
        ({"mesh": "No_Name"}, "mesh: expected"),
        ({"node": {}}, "node.name: missing, and required"),
        ({"node": {"name": "n1", "labels": {"a b": "c"}}}, "node.labels"),
        ({"paths": {"data": "relative"}}, "paths.data"),
        ({"runtime": {"engine": "docker"}}, "runtime.engine"),
    ],
)
def test_each_mistake_names_path_and_remedy(change: dict[str, Any], expected: str) -> None:
    """The file, the path in it, and what would be right."""
    with pytest.raises(InvalidInput) as caught:
        settings.decode({**LEAST, **change}, file="/etc/beemesh/node.yaml")
    assert expected in str(caught.value)
    assert "/etc/beemesh/node.yaml" in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_data_brings_anything_but_a_refusal(data: object) -> None:
    """Whatever a file holds, the answer is settings or `InvalidInput`."""
    for candidate in (data, {**LEAST, "scheduler": data}, {**LEAST, "seeds": data}, {**LEAST, "node": data}):
        try:
            settings.decode(candidate)
        except InvalidInput:
            continue


def _sections(section: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    inner = [hint for hint in get_type_hints(section).values() if isinstance(hint, type)]
    return [section, *(found for hint in inner if issubclass(hint, msgspec.Struct) for found in _sections(hint))]


def test_every_value_is_documented() -> None:
    """Words for all; unit and range for every number."""
    for section in _sections(settings.NodeSettings):
        for name, hint in get_type_hints(section, include_extras=True).items():
            kind = get_args(hint)[0] if get_args(hint) else hint
            meta = settings.field_of(section, name)
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                continue
            assert meta is not None and meta.description, f"{section.__name__}.{name}"
            if kind in (int, float):
                assert "Range:" in meta.description, f"{section.__name__}.{name}"
            if kind is int:
                assert "Unit:" in meta.description, f"{section.__name__}.{name}"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("10.0.0.1:1", "10.0.0.1", 1), ("[fd00::5]:7946", "fd00::5", 7946), ("n1.lan:65535", "n1.lan", 65535)],
)
def test_endpoints_read_and_print_alike(text: str, host: str, port: int) -> None:
    """IPv6 keeps its brackets."""
    read = settings.parse_endpoint(text)
    assert (read.host, read.port, str(read)) == (host, port, text)


@pytest.mark.parametrize(
    "text", ["", "a", "a:", ":1", "a:0", "a:65536", "fd00::5:7946", "[zz]:1", "[1.2.3.4]:1", "a b:1"]
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(InvalidInput):
        settings.parse_endpoint(text)
