"""Reads the field tables into types that `structure` walks by."""

from __future__ import annotations

import difflib
import fnmatch
import re
from dataclasses import dataclass
from functools import cache

from beemesh.workloads.fields_pod import POD_FIELDS
from beemesh.workloads.fields_policy import POLICY_FIELDS
from beemesh.workloads.fields_volumes import VOLUME_FIELDS

_TOKEN = re.compile(r"(?P<plus>\+?)(?P<name>[A-Za-z*/-]+)(?P<required>!?):(?P<type>[^~]+)(?:~(?P<defaults>.+))?")
_RANGE = re.compile(r"int\((?P<low>[0-9]+)\.\.(?P<high>[0-9]*)\)")


@dataclass(frozen=True, slots=True)
class FieldType:
    """What a value must be. `form` is one of `list map struct enum int` or a format's name."""

    form: str
    name: str = ""
    inner: FieldType | None = None
    choices: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a type. `harmless` values are accepted although the field is not supported; `*` is any."""

    name: str
    type: FieldType
    supported: bool
    required: bool
    harmless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StructType:
    """A type's fields by name, and the patterns that further names may match."""

    name: str
    fields: dict[str, Field]
    patterns: tuple[Field, ...] = ()

    def field(self, name: str) -> Field | None:
        """The field of that name, or the pattern that it matches; None when Kubernetes knows neither."""
        known = self.fields.get(name)
        if known is None:
            known = next((field for field in self.patterns if fnmatch.fnmatchcase(name, field.name)), None)
        return known

    def nearest(self, name: str) -> str:
        """`did you mean …` for a name that is not known, or an empty text."""
        return did_you_mean(name, self.fields)


def did_you_mean(word: str, known: object) -> str:
    """`did you mean 'x'?` where a known word is close to `word`, else an empty text."""
    words = [str(item) for item in known] if isinstance(known, dict | list | tuple | set | frozenset) else []
    lower = {item.lower(): item for item in words}
    close = difflib.get_close_matches(word.lower()[:100], lower, n=1, cutoff=0.6)
    return f"did you mean {lower[close[0]]!r}?" if close else ""


def _type_of(text: str, structs: set[str]) -> FieldType:
    if text.startswith("["):
        return FieldType("list", inner=_type_of(text[1:-1], structs))
    if text.startswith("map<"):
        return FieldType("map", inner=_type_of(text[4:-1], structs))
    if text.startswith("{"):
        return FieldType("enum", choices=tuple(text[1:-1].split("|")))
    if match := _RANGE.fullmatch(text):
        return FieldType("int", low=int(match["low"]), high=int(match["high"]) if match["high"] else None)
    return FieldType("struct", name=text) if text in structs else FieldType(text)


def _field_of(token: str, structs: set[str]) -> Field:
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise ValueError(f"the field table has a word that is no field: {token!r}")
    harmless = tuple(match["defaults"].split("|")) if match["defaults"] else ()
    kind = _type_of(match["type"], structs)
    return Field(match["name"], kind, bool(match["plus"]), bool(match["required"]), harmless)


@cache
def structs() -> dict[str, StructType]:
    """Every type of the tables by name; read once, at first use."""
    blocks: dict[str, list[str]] = {}
    current: list[str] = []
    for line in (POD_FIELDS + VOLUME_FIELDS + POLICY_FIELDS).splitlines():
        if line and not line.startswith(" "):
            current = blocks.setdefault(line, [])
        else:
            current.extend(line.split())
    names = set(blocks)
    return {name: _struct(name, tokens, names) for name, tokens in blocks.items()}


def _struct(name: str, tokens: list[str], names: set[str]) -> StructType:
    fields = [_field_of(token, names) for token in tokens]
    plain = {field.name: field for field in fields if "*" not in field.name}
    return StructType(name, plain, tuple(field for field in fields if "*" in field.name))
