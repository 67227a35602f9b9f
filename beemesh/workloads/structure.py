"""Walks plain data along the field tables: unknown fields, types, ranges, formats. Never raises."""

from __future__ import annotations

from typing import Any

from beemesh.workloads.formats import TEXT_FORMATS, amount, count_or_percent, cpu, mode, quantity
from beemesh.workloads.objects import Finding, Ignored, Path, path_text, shown
from beemesh.workloads.schema import Field, FieldType, StructType, did_you_mean, structs

FINDINGS_MAX = 100
"""Findings listed per object: a person mends a few at a time."""

INT_MAX = 2**63 - 1
"""Kubernetes' integers have 64 bits."""

QUANTITY_FORMATS = {"quantity": quantity, "amount": amount, "cpu": cpu}
HIDDEN_FORMATS = frozenset({"str", "base64"})
"""Formats whose values may be secret, so that no message repeats them."""

_JSON_WORDS = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}


def word_for(value: object) -> str:
    """What a value is, in plain words."""
    return _JSON_WORDS.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


class Walk:
    """One walk over one object; `findings` and `ignored` fill as it goes. The copy it returns holds only supported
    fields of the right type; a wrong list element leaves an empty one, so that indices stay what they were."""

    def __init__(self, *, allow_unsupported: bool) -> None:
        self.findings: list[Finding] = []
        self.ignored: list[Ignored] = []
        self._allow_unsupported = allow_unsupported

    def struct(self, struct: StructType, value: object, path: Path, *, quiet: bool = False) -> dict[str, Any]:
        """The clean copy of a mapping; `quiet` inside of an unsupported field, which is named already."""
        if not isinstance(value, dict):
            self._find(path, f"{path_text(path)} must be a mapping, not {word_for(value)}")
            return {}
        clean: dict[str, Any] = {}
        for name, item in value.items():
            field = struct.field(name) if isinstance(name, str) else None
            if field is None:
                self._unknown(struct, name, path)
            elif item is not None and (field.supported or quiet):
                checked = self.value(field.type, item, (*path, name), quiet=quiet)
                if checked is not None:
                    clean[name] = checked
            elif item is not None:
                self._unsupported(field, name, item, path)
        if not quiet:
            self._missing(struct, value, path)
        return clean

    def value(self, kind: FieldType, value: object, path: Path, *, quiet: bool = False) -> Any:
        """The clean copy of any value, or None to leave it out."""
        if kind.form == "any":
            return value
        if kind.form == "struct":
            return self.struct(structs()[kind.name], value, path, quiet=quiet)
        if kind.form == "list":
            return self._list(kind, value, path, quiet=quiet)
        if kind.form == "map":
            return self._map(kind, value, path, quiet=quiet)
        return self._scalar(kind, value, path)

    def _list(self, kind: FieldType, value: object, path: Path, *, quiet: bool) -> list[Any] | None:
        if not isinstance(value, list) or kind.inner is None:
            self._find(path, f"{path_text(path)} must be a list, not {word_for(value)}", "begin each entry with '- '")
            return None
        items = [self.value(kind.inner, item, (*path, index), quiet=quiet) for index, item in enumerate(value)]
        empty: Any = {} if kind.inner.form == "struct" else ""
        return [empty if item is None else item for item in items]

    def _map(self, kind: FieldType, value: object, path: Path, *, quiet: bool) -> dict[str, Any] | None:
        if not isinstance(value, dict) or kind.inner is None:
            self._find(path, f"{path_text(path)} must be a mapping, not {word_for(value)}")
            return None
        clean: dict[str, Any] = {}
        for name, item in value.items():
            if not isinstance(name, str) or not _is_text(name):
                self._find(path, f"{path_text(path)} has a key that is no text")
            elif (checked := self.value(kind.inner, item, (*path, name), quiet=quiet)) is not None:
                clean[name] = checked
        return clean

    def _scalar(self, kind: FieldType, value: object, path: Path) -> Any:
        problem, hint = _scalar_problem(kind, value)
        if not problem:
            return None if kind.form == "enum" and value == "" else value
        said = "" if kind.form in HIDDEN_FORMATS or not isinstance(value, str | int | float) else f" {shown(value)}"
        self._find(path, f"{path_text(path)}{said} {problem}", hint)
        return None

    def _unknown(self, struct: StructType, name: object, path: Path) -> None:
        if not isinstance(name, str):
            self._find(path, f"{path_text(path)} has a key that is no text")
            return
        place = f"of {path_text(path)}" if path else "of the object"
        self._find((*path, name), f"{shown(name)} is no field {place}", struct.nearest(name), at_key=True)

    def _unsupported(self, field: Field, name: str, value: object, path: Path) -> None:
        if _is_harmless(field, value):
            return
        self.value(field.type, value, (*path, name), quiet=True)
        where = path_text((*path, name))
        if self._allow_unsupported:
            instead = "; an empty directory takes its place" if path and path[-2:-1] == ("volumes",) else ""
            self.ignored.append(Ignored((*path, name), f"{where} is not supported by beemesh yet{instead}"))
            return
        hint = "remove it, or leave it out of account with --allow-unsupported"
        self._find((*path, name), f"{where} is not supported by beemesh yet", hint, at_key=True)

    def _missing(self, struct: StructType, value: dict[Any, Any], path: Path) -> None:
        for field in struct.fields.values():
            if field.required and value.get(field.name) is None and not field.harmless:
                self._find(path, f"{path_text((*path, field.name))} is missing")

    def _find(self, path: Path, message: str, hint: str = "", *, at_key: bool = False) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(path, message, hint, at_key))


def _is_harmless(field: Field, value: object) -> bool:
    """Whether an unsupported field says no more than leaving it out would."""
    if value in ("", [], {}) or "*" in field.harmless:
        return True
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return isinstance(value, str | int) and text in field.harmless


def _is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8 (JSON allows halves of characters, which cannot)."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _scalar_problem(kind: FieldType, value: object) -> tuple[str, str]:
    """What is wrong with a single value, and what to do; both empty when it is right."""
    form = kind.form
    if form == "bool":
        return ("", "") if isinstance(value, bool) else (f"must be true or false, not {word_for(value)}", "")
    if form == "int":
        return _int_problem(kind, value), ""
    if form in QUANTITY_FORMATS:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return f"must be a quantity such as 500m or 64Mi, not {word_for(value)}", ""
        return QUANTITY_FORMATS[form](value), ""
    if form == "mode":
        return _mode_problem(value)
    if form in ("countorpercent", "portref"):
        if isinstance(value, bool) or not isinstance(value, str | int):
            return f"must be a whole number or text, not {word_for(value)}", ""
        return (count_or_percent(value) if form == "countorpercent" else ""), ""
    return _text_problem(kind, value)


def _int_problem(kind: FieldType, value: object) -> str:
    low, high = kind.low, kind.high
    span = f"from {low} to {high}" if high is not None else f"of at least {low}" if low is not None else ""
    if isinstance(value, bool) or not isinstance(value, int):
        return f"must be a whole number{' ' if span else ''}{span}, not {word_for(value)}"
    if (low is not None and value < low) or (high is not None and value > high) or abs(value) > INT_MAX:
        return f"must be a whole number {span or 'of at most 64 bits'}"
    return ""


def _mode_problem(value: object) -> tuple[str, str]:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"must be permission bits, not {word_for(value)}", "write them as 0o644 or 0644, without quotes"
    return mode(value), "write permission bits as 0o644 or 0644" if mode(value) else ""


def _text_problem(kind: FieldType, value: object) -> tuple[str, str]:
    if not isinstance(value, str):
        quote = isinstance(value, bool | int | float)
        return f"must be text, not {word_for(value)}", "put it in quotes" if quote else ""
    if not _is_text(value):
        return "holds a character that is no Unicode text", ""
    if kind.form == "enum":
        if value in kind.choices or not value:
            return "", ""
        return f"must be one of {', '.join(kind.choices)}", did_you_mean(value, kind.choices)
    check = TEXT_FORMATS.get(kind.form)
    return (check(value) if check else ""), ""
