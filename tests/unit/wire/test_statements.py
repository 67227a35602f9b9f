"""What is signed is read by the next version and by the one before: its kinds, its fields and its bytes are pinned."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest

from beemesh.identity.signing import Signed, decode_body
from beemesh.intents.entitlement import check_key
from beemesh.intents.record import Intent, IntentKind
from beemesh.membership.claims import STATEMENTS as CLAIMS
from beemesh.membership.claims import decode
from beemesh.membership.messages import Claim, ClaimKind
from schemas.generate import text_of
from schemas.statements import BODIES, INTENT_BODIES, STATEMENTS
from tests.house.sources import files, module_name, tree

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "vectors" / "statements.json").read_text())
"""Examples of each kind: its `fields` (bytes in base64), the `body` that is signed, and `least`, which is the same
without the fields that may be missing; both in hex. Examples are for ever: a new field gets a further one."""

each_example = pytest.mark.parametrize(
    "vector", VECTORS, ids=[f"{vector['kind']}-{number}" for number, vector in enumerate(VECTORS)]
)

FUTURE = {"a field of the future": [1, {"deep": b"x"}]}
"""What a newer version added."""

NEVER_SAID = {"PriorityClass.namespace"}
"""Fields that every node refuses with anything but their default."""

KIND_AND_BODY_AT: dict[str, tuple[int, int | None]] = {
    "sign_statement": (1, None),
    "open_statement": (2, 4),
    "check_statement": (2, None),
    "open_member_statement": (3, 4),
}
"""Where the calls that sign and check have the kind, and the type of the body."""


def body_of(vector: dict[str, Any], form: str = "body") -> msgspec.Struct:
    """A pinned body as the mesh reads it."""
    kind = vector["kind"]
    return decode_body(Signed(kind, bytes.fromhex(vector[form]), b"", b""), BODIES[kind])


def defaults_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """What stands for the fields that may be missing."""
    return {
        field.name: field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(struct)
        if not field.required
    }


def rewritten(value: Any, *, least: bool, extra: dict[str, Any]) -> Any:
    """The plain data of a value: without the fields that may be missing (`least`), and with `extra` in every struct."""
    if isinstance(value, msgspec.Struct):
        left_out = defaults_of(type(value)) if least else {}
        kept = {name: getattr(value, name) for name in value.__struct_fields__ if name not in left_out}
        plain = rewritten(kept, least=least, extra=extra) | extra
        return list(plain.values()) if value.__struct_config__.array_like else plain
    if isinstance(value, dict):
        return {key: rewritten(each, least=least, extra=extra) for key, each in value.items()}
    if isinstance(value, tuple):
        return [rewritten(each, least=least, extra=extra) for each in value]
    return value


def named(value: Any) -> Any:
    """A value as its pinned `fields` show it: positional structs by name, too."""
    if isinstance(value, msgspec.Struct):
        return {name: named(getattr(value, name)) for name in value.__struct_fields__}
    return [named(each) for each in value] if isinstance(value, tuple) else msgspec.to_builtins(value)


def still_says(plain: Any, earlier: Any) -> bool:
    """Whether plain data has all that an earlier version's had, of the same types; more keys and elements are added."""
    if isinstance(earlier, dict) and isinstance(plain, dict):
        return all(key in plain and still_says(plain[key], each) for key, each in earlier.items())
    if isinstance(earlier, list) and isinstance(plain, list):
        return len(plain) >= len(earlier) and all(map(still_says, plain, earlier))
    return msgspec.msgpack.encode(plain) == msgspec.msgpack.encode(earlier)


def fields_below(described: msgspec.inspect.Type) -> Iterator[str]:
    """Every field of every struct in a type."""
    if isinstance(described, msgspec.inspect.StructType):
        yield from (f"{described.cls.__name__}.{field.name}" for field in described.fields)
        for field in described.fields:
            yield from fields_below(field.type)
    elif isinstance(described, msgspec.inspect.VarTupleType):
        yield from fields_below(described.item_type)
    elif isinstance(described, msgspec.inspect.DictType):
        yield from fields_below(described.value_type)
    elif isinstance(described, msgspec.inspect.UnionType):
        for each in described.types:
            yield from fields_below(each)


def said_in(value: Any) -> Iterator[str]:
    """Every field below a value that says something else than its default."""
    if isinstance(value, msgspec.Struct):
        defaults = defaults_of(type(value))
        for name in value.__struct_fields__:
            inner = getattr(value, name)
            if name not in defaults or inner != defaults[name]:
                yield f"{type(value).__name__}.{name}"
                yield from said_in(inner)
    elif isinstance(value, dict | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from said_in(each)


def calls() -> Iterator[tuple[str, type[Any] | None]]:
    """Kind and type of the body of every call that signs or checks, where the kind is not handed in from outside."""
    for file in files("beemesh", "agent", "beemeshctl"):
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KIND_AND_BODY_AT:
                kind_at, body_at = KIND_AND_BODY_AT[node.func.id]
                kind, body = node.args[kind_at], node.args[body_at] if body_at is not None else None
                module = importlib.import_module(module_name(file))
                said = kind.value if isinstance(kind, ast.Constant) else getattr(module, ast.unparse(kind), None)
                if said is not None:
                    yield str(said), getattr(module, ast.unparse(body)) if body is not None else None


def test_every_kind_that_is_signed_is_listed() -> None:
    """As whatever the code signs or opens: it has a schema and an example, and the list says the type that is read."""
    found = list(calls())

    assert {kind for kind, _ in found} | set(CLAIMS) == set(STATEMENTS)
    assert [(kind, body) for kind, body in found if body not in (None, STATEMENTS[kind])] == []
    assert set(get_args(ClaimKind)) == set(CLAIMS)
    assert set(get_args(IntentKind)) == {*INTENT_BODIES, "tombstone"}


def test_nothing_is_signed_past_the_list() -> None:
    """Whoever else makes bytes to sign: claims, which the list has, datagrams and requests, which are no structs."""
    makers = {
        module_name(file)
        for file in files("beemesh", "agent", "beemeshctl")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "payload_of"
    }
    assert makers == {
        "beemesh.identity.requests",
        "beemesh.identity.signing",
        "beemesh.membership.claims",
        "beemesh.wire.datagram",
    }


def test_kinds_are_for_ever() -> None:
    """Each has a pinned example, and none that is pinned has gone."""
    assert set(BODIES) == {vector["kind"] for vector in VECTORS}


@each_example
def test_a_body_keeps_its_fields(vector: dict[str, Any]) -> None:
    """One that is renamed, removed, moved or of another type would no longer be what another version says with it."""
    body, pinned = body_of(vector), msgspec.msgpack.decode(bytes.fromhex(vector["body"]))

    assert still_says(named(body), vector["fields"])
    assert still_says(msgspec.msgpack.decode(msgspec.msgpack.encode(body)), pinned)


@pytest.mark.parametrize("kind", BODIES)
def test_the_examples_leave_nothing_out(kind: str) -> None:
    """Every field, also of the structs inside, stands in an example of its kind with something else than its default:
    what is in none could be renamed unnoticed."""
    said = {name for vector in VECTORS if vector["kind"] == kind for name in said_in(body_of(vector))}

    assert set(fields_below(msgspec.inspect.type_info(BODIES[kind]))) - said - NEVER_SAID == set()


@each_example
def test_a_newer_versions_fields_are_ignored(vector: dict[str, Any]) -> None:
    """What is added to a body, or to a struct inside one, does not keep the rest from being read."""
    newer = msgspec.msgpack.encode(rewritten(body_of(vector), least=False, extra=FUTURE))

    assert newer.hex() != vector["body"]
    assert body_of({**vector, "newer": newer.hex()}, "newer") == body_of(vector)


@each_example
def test_an_older_versions_body_is_read(vector: dict[str, Any]) -> None:
    """Without any field that may be missing. A new field that must be there would refuse what older nodes say; one that
    may be missing from now on would have them refuse what we say."""
    older = rewritten(body_of(vector), least=True, extra={})

    assert msgspec.msgpack.encode(older).hex() == vector["least"]
    least = body_of(vector, "least")
    assert {name: getattr(least, name) for name in defaults_of(type(least))} == defaults_of(type(least))


@pytest.mark.parametrize("form", ["body", "least"])
@each_example
def test_the_mesh_reads_what_is_listed(vector: dict[str, Any], form: str) -> None:
    """Claims and the bodies of intents pass the reader that nodes have for them, the latter under the pinned key."""
    kind, body = vector["kind"], bytes.fromhex(vector[form])
    if kind in CLAIMS:
        assert decode(Claim(kind, body, bytes(64))) == body_of(vector, form)
    if kind.startswith("intent/"):
        check_key(Intent("home", kind.removeprefix("intent/"), vector["key"], 1, b"", 1, body))


@each_example
def test_the_schema_describes_the_body(vector: dict[str, Any]) -> None:
    """The schema takes the example under its kind, and refuses it without what must be there."""
    schema = json.loads(text_of("statements.schema.json"))
    (head,) = (each for each in schema["anyOf"] if each["x-kind"] == vector["kind"])
    validator = jsonschema.Draft202012Validator({"$ref": head["$ref"], "$defs": schema["$defs"]})

    validator.validate(json.loads(msgspec.json.encode(body_of(vector))))
    validator.validate(json.loads(msgspec.json.encode(body_of(vector, "least"))))
    assert not validator.is_valid([] if BODIES[vector["kind"]].__struct_config__.array_like else {})
