"""Reading `node.yaml`: plain data to settings, with errors that say where and what would be right."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import msgspec

from beemesh.errors import InvalidInput, Problem
from beemesh.settings.fields import ENDPOINT_PATTERN
from beemesh.settings.model import NodeSettings


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port; `str` gives back the text, with brackets around IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


FLOW_DEPTH_MAX = 100
"""Brackets that are open at once in a YAML text: parsers in Python take time by the square of it."""

_BRACKET = re.compile(r"[\[\]{}]")


def is_nested_too_deeply(text: str) -> bool:
    """Whether a YAML text opens more brackets at once than any that means something, before a parser sees it."""
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > FLOW_DEPTH_MAX:
            return True
        depth = max(depth, 0)
    return False


def parse_endpoint(text: str) -> Endpoint:
    """Read `host:port` or `[ipv6]:port`; raises `InvalidInput` when it is neither or the port is not 1 to 65535."""
    host, _, port_text = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if re.match(ENDPOINT_PATTERN, text) and 1 <= int(port_text) <= 65535:
        if not bracketed:
            return Endpoint(host, int(port_text))
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            pass
        else:
            return Endpoint(host[1:-1], int(port_text))
    raise InvalidInput(f"{text!r} is not an address with a port, such as 10.0.0.5:7946 or [fd00::5]:7946")


def decode(data: object, *, file: str = "node.yaml") -> NodeSettings:
    """Settings from plain data as a YAML or JSON parser gives it.

    Raises `InvalidInput` with the path of the value, what was expected there and the value's documentation. Lines and
    columns are not known here: `beemeshctl` checks the inventory, where people write, with both.
    """
    try:
        settings = msgspec.convert(data, NodeSettings)
    except UnicodeEncodeError:
        raise InvalidInput(f"{file} is not a valid node configuration: it holds half of a surrogate pair") from None
    except msgspec.ValidationError as error:
        problem = _explain(str(error), data, file)
        raise InvalidInput(f"{file} is not a valid node configuration", problems=(problem,)) from None
    problems = tuple(Problem(message, file=file, path=path) for path, message in contradictions(settings))
    if problems:
        raise InvalidInput(f"{file} contradicts itself", problems=problems)
    return settings


def contradictions(settings: NodeSettings) -> Iterator[tuple[str, str]]:
    """Values that are fine each by itself and wrong together, as (path, message)."""
    scheduler, membership = settings.scheduler, settings.membership
    if scheduler.lease_renew_ms * 2 > scheduler.lease_ttl_ms:
        yield (
            "scheduler.lease_renew_ms",
            f"scheduler.lease_renew_ms: {scheduler.lease_renew_ms} ms is more than half of lease_ttl_ms "
            f"({scheduler.lease_ttl_ms} ms); one lost message would end a lease: lower it or raise lease_ttl_ms",
        )
    if membership.probe_timeout_ms >= membership.probe_interval_ms:
        yield (
            "membership.probe_timeout_ms",
            "membership.probe_timeout_ms: must be below probe_interval_ms "
            f"({membership.probe_interval_ms} ms), or indirect probes never happen",
        )
    weights = scheduler.weights
    if weights.fit + weights.locality + weights.reliability + weights.qos <= 0:
        yield "scheduler.weights", "scheduler.weights: at least one weight must be above 0"
    listens = {"gossip": settings.listen.gossip, "api": settings.listen.api, "metrics": settings.listen.metrics}
    ports: dict[int, str] = {}
    for name, text in listens.items():
        path = f"listen.{name}"
        if not text:
            continue
        try:
            port = parse_endpoint(text).port
        except InvalidInput as error:
            yield path, f"{path}: {error.message}"
            continue
        if port in ports:
            yield path, f"{path}: port {port} is taken by {ports[port]}; both use TCP"
        ports[port] = path
    for index, seed in enumerate(settings.seeds):
        try:
            parse_endpoint(seed)
        except InvalidInput as error:
            yield f"seeds[{index}]", f"seeds[{index}]: {error.message}"


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `node.yaml`."""
    schema = msgspec.json.schema(NodeSettings)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Beemesh node configuration (node.yaml)",
        **schema,
    }


def section_schema(section: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of one section with nothing referred to elsewhere, for use inside another schema."""
    (schema,), components = msgspec.json.schema_components([section], ref_template="{name}")
    inlined: dict[str, Any] = _inlined(schema, components)
    return inlined


def field_of(section: type[msgspec.Struct], name: str) -> msgspec.Meta | None:
    """The documentation and bounds of a field, or None where it has none (a nested section)."""
    hint = get_type_hints(section, include_extras=True)[name]
    return next((item for item in get_args(hint)[1:] if isinstance(item, msgspec.Meta)), None)


def _inlined(schema: Any, components: Mapping[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(components[schema["$ref"]], components)
        return {key: _inlined(value, components) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_inlined(item, components) for item in schema]
    return schema


def _explain(text: str, data: object, file: str) -> Problem:
    """Turn msgspec's message into ours: path first, then what was expected, then the value's documentation."""
    message, _, where = text.partition(" - at `")
    where = where.removeprefix("key` in `")
    path = where.rstrip("`").removeprefix("$").lstrip(".")
    message = message.replace("`", "")
    unknown = re.fullmatch(r"Object contains unknown field (.+)", message)
    missing = re.fullmatch(r"Object missing required field (.+)", message)
    section = _section_at(path)
    if unknown:
        known = list(section.__struct_fields__) if section else []
        close = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        path = f"{path}.{unknown[1]}".lstrip(".")
        return Problem(f"{path}: unknown key", file=file, path=path, hint=hint)
    if missing:
        path = f"{path}.{missing[1]}".lstrip(".")
        return Problem(f"{path}: missing, and required", file=file, path=path)
    parent, _, name = path.rpartition(".")
    owner, bare = _section_at(parent), re.sub(r"\[.*", "", name)
    meta = field_of(owner, bare) if owner and bare in owner.__struct_fields__ else None
    detail = message[:1].lower() + message[1:]
    return Problem(
        f"{path or 'the file'}: {detail}", file=file, path=path, hint=(meta.description or "") if meta else ""
    )


def _section_at(path: str) -> type[msgspec.Struct] | None:
    """The section a dotted path leads to; None when it leads to a plain value."""
    section: Any = NodeSettings
    for name in filter(None, path.split(".")):
        section = get_type_hints(section).get(name) if isinstance(section, type) else None
        if not (isinstance(section, type) and issubclass(section, msgspec.Struct)):
            return None
    return section  # type: ignore[no-any-return]
