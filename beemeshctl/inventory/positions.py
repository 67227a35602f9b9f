"""YAML with places: plain data, and the line and column of every key and value in it.

The resolver is that of YAML 1.1 (`yes` and `no` are booleans), because Ansible reads inventories so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beemesh.errors import InvalidInput, Problem
from beemesh.settings import is_nested_too_deeply

YamlPath = tuple[str | int, ...]

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Largest file read: a thousand hosts with generous variables stay below 1 MiB."""

MAX_NODES = 200_000
"""YAML nodes per file with aliases expanded: bounds what a nested alias can blow up to."""

_NO_BOOLEANS = ("y", "Y", "n", "N")
"""Booleans by the letter of YAML 1.1, and plain text to Ansible's parser."""

_UNREADABLE_TAGS = {
    "!vault": "values encrypted with ansible-vault are not read: keep secrets out of it, or use a prompt",
    "!unsafe": "remove the !unsafe tag: values are rendered in a sandbox anyway",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands. Lines and columns count from 1."""

    file: str
    line: int
    column: int


@dataclass(slots=True)
class Document:
    """A file's data, and where each path of it stands (`keys`: the key itself, `values`: what it maps to)."""

    file: str
    data: Any = None
    keys: dict[YamlPath, Place] = field(default_factory=dict)
    values: dict[YamlPath, Place] = field(default_factory=dict)

    def place(self, path: YamlPath, *, key: bool = False) -> Place:
        """The place of the nearest known ancestor of `path`."""
        table = self.keys if key else self.values
        while path:
            found = table.get(path) or self.values.get(path)
            if found:
                return found
            path = path[:-1]
        return Place(self.file, 1, 1)

    def problem(self, path: YamlPath, message: str, *, hint: str = "", key: bool = False) -> Problem:
        """A problem at `path` of this document."""
        place = self.place(path, key=key)
        return Problem(message, place.file, place.line, place.column, ".".join(map(str, path)), hint)


def read_document(path: Path) -> Document:
    """Read and parse a file; raises `InvalidInput` with the place of what is wrong."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InvalidInput(f"{path} does not exist", hint="give the path of an Ansible YAML inventory") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path} is a directory", hint="give the path of the inventory file in it") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidInput(f"{path} is larger than {MAX_FILE_BYTES // (1024 * 1024)} MiB")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {error.start})") from None
    return parse_document(text, str(path))


def parse_document(text: str, file: str) -> Document:
    """Parse YAML text; raises `InvalidInput` listing syntax errors, duplicate keys and tags that are not read."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if is_nested_too_deeply(text):
        raise _too_deep(file)
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = Problem(
            " ".join(filter(None, (error.context, error.problem))) or "not YAML",
            file,
            (mark.line + 1) if mark else 0,
            (mark.column + 1) if mark else 0,
        )
        raise InvalidInput(f"{file} is not valid YAML", problems=(problem,)) from None
    except (YAMLError, ValueError) as error:
        raise InvalidInput(f"{file} is not valid YAML: {error}") from None
    except RecursionError:
        raise _too_deep(file) from None
    document = Document(file)
    if root is not None:
        builder = _Builder(document, yaml)
        try:
            document.data = builder.build(root, ())
        except RecursionError:
            raise _too_deep(file) from None
        if builder.problems:
            raise InvalidInput(f"{file} cannot be used", problems=tuple(builder.problems))
    return document


def _too_deep(file: str) -> InvalidInput:
    return InvalidInput(f"{file} is nested too deeply to be read", hint="an inventory has some ten levels")


_SURROGATE = re.compile("[\ud800-\udfff]")


class _Builder:
    """Plain data from composed nodes, noting places on the way."""

    def __init__(self, document: Document, yaml: Any) -> None:
        self._document = document
        self._yaml = yaml
        self._count = 0
        self.problems: list[Problem] = []

    def build(self, node: Any, path: YamlPath) -> Any:
        self._count += 1
        if self._count > MAX_NODES:
            raise InvalidInput(f"{self._document.file} holds more than {MAX_NODES} values")
        self._document.values.setdefault(path, self._place(node))
        tag = str(getattr(node, "tag", "") or "")
        if tag.startswith("!") and tag != "!":
            hint = _UNREADABLE_TAGS.get(tag, "remove the tag")
            self._complain(node, path, f"the tag {tag} is not read here", hint)
            return None
        kind = type(node).__name__
        if kind == "MappingNode":
            return self._mapping(node, path)
        if kind == "SequenceNode":
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if self._is_half(node, path):
            return None
        try:
            return self._scalar(node)
        except (ValueError, TypeError) as error:
            self._complain(node, path, f"{node.value!r} cannot be read: {error}", "quote it if it is text")
            return None

    def _mapping(self, node: Any, path: YamlPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if getattr(key_node, "value", None) == "<<" and str(key_node.tag).endswith(":merge"):
                sources = value_node.value if type(value_node).__name__ == "SequenceNode" else [value_node]
                for source in sources:
                    extra = self.build(source, path)
                    merged = {**extra, **merged} if isinstance(extra, dict) else merged
                continue
            key = key_node.value if isinstance(key_node.value, str) else None
            if key is None:
                self._complain(key_node, path, "a key must be plain text", "")
                continue
            if self._is_half(key_node, path):
                continue
            inner = (*path, key)
            if key in result:
                first = self._document.keys[inner]
                self._complain(key_node, inner, f"{key} is given twice", f"first on line {first.line}; keep one")
                continue
            self._document.keys[inner] = self._place(key_node)
            self._document.values.pop(inner, None)
            result[key] = self.build(value_node, inner)
        return {**merged, **result}

    def _is_half(self, node: Any, path: YamlPath) -> bool:
        """Whether a text holds half of a surrogate pair, as an escape can: it has no encoding."""
        half = isinstance(node.value, str) and _SURROGATE.search(node.value)
        if half:
            self._complain(node, path, f"{node.value!r} holds half of a surrogate pair", "remove the escape")
        return bool(half)

    def _scalar(self, node: Any) -> Any:
        if node.value in _NO_BOOLEANS:
            return node.value
        value = self._yaml.constructor.construct_object(node, deep=True)
        return value if isinstance(value, bool | int | float | str | None) else str(node.value)

    def _place(self, node: Any) -> Place:
        return Place(self._document.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _complain(self, node: Any, path: YamlPath, message: str, hint: str) -> None:
        place = self._place(node)
        self.problems.append(Problem(message, place.file, place.line, place.column, ".".join(map(str, path)), hint))
