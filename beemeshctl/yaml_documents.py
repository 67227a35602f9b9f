"""YAML that strangers wrote, read with bounds and with the place of every value.

YAML 1.2 as Kubernetes' own tools read it: keys are texts, `0644` is octal, merge keys (`<<`) work, no tags but the
standard ones of JSON. Nothing is constructed but plain data. A file's documents are read one by one, so that a broken
one hides neither the others nor their mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

DEPTH_MAX = 64
"""Nesting of one document: a Deployment needs about 15."""

NODES_MAX = 200_000
"""Values in one document, aliases counted as often as they are used (against exponential growth)."""

DOCUMENTS_MAX = 1_000
"""Documents in one file."""

NUMBER_CHARS_MAX = 64
"""Longer numbers are texts that lack quotes."""

_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_OCTAL = re.compile(r"0o([0-7]+)|0([0-7]+)")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*|0[0-9]*[89][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAG = "tag:yaml.org,2002:"
_HINTS = (
    ("'\\t'", "indent with spaces, never with tabs"),
    ("mapping values are not allowed", "check the indentation; a text with ': ' in it needs quotes"),
    ("did not find expected", "check the indentation of this line and the one before"),
    ("cannot start any token", "put the text in quotes"),
    ("while scanning a quoted scalar", "a quote is not closed"),
)


@dataclass(slots=True)
class Mistake:
    """One thing wrong with the text itself; line and column count from 1."""

    message: str
    line: int
    column: int
    hint: str = ""


class _Broken(Exception):
    """The document cannot be read any further."""

    def __init__(self, message: str, line: int, column: int, hint: str = "") -> None:
        super().__init__(message)
        self.mistake = Mistake(message, line, column, hint)


@dataclass(slots=True)
class Entry:
    """One key of a mapping with its place, and what it holds."""

    line: int
    column: int
    node: Node


@dataclass(slots=True)
class Node:
    """A value and where it begins; line and column count from 1."""

    kind: str
    line: int
    column: int
    value: Any = None
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    merges: list[Node] = field(default_factory=list)
    open: bool = True

    def locate(self, path: tuple[str | int, ...], *, at_key: bool = False) -> tuple[int, int]:
        """Line and column of the value at `path` (of its key: `at_key`), or of the last part of it that exists."""
        node, place = self, (self.line, self.column)
        for depth, part in enumerate(path):
            if isinstance(part, int):
                if node.kind != "list" or not 0 <= part < len(node.items):
                    return place
                node = node.items[part]
            else:
                entry = node.entries.get(part)
                if entry is None:
                    return place
                node = entry.node
                if depth == len(path) - 1 and at_key:
                    return entry.line, entry.column
                place = entry.line, entry.column
                continue
            place = node.line, node.column
        return node.line, node.column


@dataclass(slots=True)
class Document:
    """One document: its tree and plain data, or None with the mistakes that kept it from being read."""

    node: Node | None
    data: object
    mistakes: list[Mistake]


def read_documents(text: str) -> Iterator[Document]:
    """The documents of a text, empty ones left out. Never raises for what the text says."""
    for number, (chunk, first_line) in enumerate(_chunks(text)):
        if number >= DOCUMENTS_MAX:
            mistake = Mistake(f"more than {DOCUMENTS_MAX} documents in one file", first_line, 1, "split the file")
            yield Document(None, None, [mistake])
            return
        document = _read_one(chunk, first_line)
        if document is not None:
            yield document


def _chunks(text: str) -> Iterator[tuple[str, int]]:
    """The text cut before each `---`, with the number of lines before each part; directives stay with what follows."""
    starts = [match.start() for match in _SEPARATOR.finditer(text)]
    begin = 0
    for end in [*starts, len(text)]:
        chunk = text[begin:end]
        meaning = [line for line in chunk.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if end != len(text) and all(line.startswith("%") for line in meaning) and meaning:
            continue
        if meaning:
            yield chunk, text.count("\n", 0, begin)
        begin = end


def _read_one(chunk: str, lines_before: int) -> Document | None:
    builder = _Builder(lines_before)
    try:
        root = builder.build(chunk)
        if root is None or (root.kind == "scalar" and root.value is None):
            return None
        data = _plain(root, _Budget(root))
    except _Broken as broken:
        return Document(None, None, [*builder.mistakes, broken.mistake])
    return Document(None if builder.mistakes else root, data, builder.mistakes)


class _Builder:
    """Turns a parser's events into nodes, with a stack of its own: deep nesting cannot exhaust Python's."""

    def __init__(self, lines_before: int) -> None:
        self.mistakes: list[Mistake] = []
        self._lines_before = lines_before
        self._anchors: dict[str, Node] = {}
        self._stack: list[Node] = []
        self._keys: list[tuple[str, int, int, bool] | None] = []
        self._root: Node | None = None
        self._count = 0

    def build(self, chunk: str) -> Node | None:
        for event in self._events(chunk):
            handler = _HANDLERS.get(type(event).__name__)
            if handler is not None:
                handler(self, event)
        return self._root

    def _events(self, chunk: str) -> Iterator[Any]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        try:
            yield from YAML(typ="safe", pure=True).parse(chunk)
        except _Broken:
            raise
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = error.problem or error.context or "cannot be read"
            line, column = (mark.line, mark.column) if mark else (0, 0)
            context = f"{error.context} " if error.context else ""
            hint = next((hint for sign, hint in _HINTS if sign in context + said), "")
            raise _Broken(f"not valid YAML: {said}", line + 1 + self._lines_before, column + 1, hint) from None
        except YAMLError as error:
            place = getattr(error, "position", 0) or 0
            line = chunk.count("\n", 0, place) + 1 + self._lines_before
            raise _Broken("not valid YAML: it has a character that no YAML text may hold", line, 1) from None
        except Exception as error:
            # The parser's own slips on odd texts: to the person who wrote it, the text is what is wrong.
            message = f"not valid YAML ({type(error).__name__})"
            raise _Broken(message, self._lines_before + 1, 1) from None

    def _place(self, event: Any) -> tuple[int, int]:
        return event.start_mark.line + 1 + self._lines_before, event.start_mark.column + 1

    def _new(self, kind: str, event: Any, value: Any = None) -> Node:
        line, column = self._place(event)
        self._count += 1
        if self._count > NODES_MAX:
            raise _Broken(f"more than {NODES_MAX} values in one document", line, column, "split it")
        node = Node(kind, line, column, value, open=kind != "scalar")
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def scalar(self, event: Any) -> None:
        if self._stack and self._stack[-1].kind == "map" and self._keys[-1] is None:
            line, column = self._place(event)
            merge = event.value == "<<" and event.implicit[0]
            self._keys[-1] = (event.value, line, column, merge)
            if event.anchor:
                self._anchors[event.anchor] = Node("scalar", line, column, event.value, open=False)
            return
        line, column = self._place(event)
        self._add(self._new("scalar", event, _scalar(event, line, column)))

    def alias(self, event: Any) -> None:
        line, column = self._place(event)
        node = self._anchors.get(event.anchor)
        if node is None:
            raise _Broken(f"the alias *{event.anchor} has no anchor &{event.anchor} before it", line, column)
        if node.open:
            raise _Broken(f"the alias *{event.anchor} refers to a value that it is part of", line, column)
        if self._stack and self._stack[-1].kind == "map" and self._keys[-1] is None:
            if node.kind != "scalar":
                raise _Broken("a key must be a plain text", line, column)
            self._keys[-1] = (str(node.value), line, column, False)
            return
        self._add(node)

    def start(self, event: Any) -> None:
        line, column = self._place(event)
        if len(self._stack) >= DEPTH_MAX:
            raise _Broken(f"nested deeper than {DEPTH_MAX} levels", line, column)
        if self._stack and self._stack[-1].kind == "map" and self._keys[-1] is None:
            hint = "put the text in quotes if it begins with '{' or '['"
            raise _Broken("a key must be a plain text", line, column, hint)
        if event.tag and str(event.tag) not in (f"{_TAG}map", f"{_TAG}seq"):
            raise _Broken(f"the tag {str(event.tag)[:60]} is not supported", line, column, "leave it out")
        kind = "map" if type(event).__name__ == "MappingStartEvent" else "list"
        self._stack.append(self._new(kind, event))
        self._keys.append(None)

    def end(self, event: Any) -> None:
        node = self._stack.pop()
        self._keys.pop()
        node.open = False
        for source in node.merges:
            for name, entry in source.entries.items():
                node.entries.setdefault(name, entry)
        self._count += sum(len(source.entries) for source in node.merges)
        if self._count > NODES_MAX:
            raise _Broken(f"more than {NODES_MAX} values in one document", node.line, node.column, "split it")
        self._add(node)

    def _add(self, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        if parent.kind == "list":
            parent.items.append(node)
            return
        key, self._keys[-1] = self._keys[-1], None
        if key is None:
            return
        name, line, column, merge = key
        if merge:
            self._merge(parent, node, line, column)
        elif name in parent.entries:
            before = parent.entries[name]
            message = f"the key {name[:60]!r} is given twice: also in line {before.line}"
            self.mistakes.append(Mistake(message, line, column, "keep one of the two"))
        else:
            parent.entries[name] = Entry(line, column, node)

    def _merge(self, parent: Node, node: Node, line: int, column: int) -> None:
        sources = node.items if node.kind == "list" else [node]
        if any(source.kind != "map" for source in sources):
            raise _Broken("a merge key (<<) takes mappings only", line, column)
        parent.merges.extend(sources)


_HANDLERS: dict[str, Callable[[_Builder, Any], None]] = {
    "ScalarEvent": _Builder.scalar,
    "AliasEvent": _Builder.alias,
    "MappingStartEvent": _Builder.start,
    "SequenceStartEvent": _Builder.start,
    "MappingEndEvent": _Builder.end,
    "SequenceEndEvent": _Builder.end,
}


def _scalar(event: Any, line: int, column: int) -> Any:
    """The plain value of a scalar event."""
    text: str = event.value
    tag = str(event.tag) if event.tag else ""
    if tag in ("!", f"{_TAG}str") or (not tag and not event.implicit[0]):
        return text
    if tag and tag.removeprefix(_TAG) not in ("int", "float", "bool", "null"):
        raise _Broken(f"the tag {tag[:60]} is not supported", line, column, "leave it out")
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _NOT_FINITE.fullmatch(text):
        raise _Broken(f"{text} is no number that a manifest may hold", line, column)
    return _number(text, line, column)


def _number(text: str, line: int, column: int) -> Any:
    """A number as Kubernetes' tools read it (`0644` is octal), or the text itself."""
    if match := _OCTAL.fullmatch(text):
        digits = match[1] or match[2]
        return int(digits, 8) if len(digits) <= NUMBER_CHARS_MAX else text
    whole, broken = _INT.fullmatch(text), _FLOAT.fullmatch(text)
    if not (whole or broken or _HEX.fullmatch(text)):
        return text
    if len(text) > NUMBER_CHARS_MAX:
        raise _Broken(f"a number of more than {NUMBER_CHARS_MAX} digits", line, column, "put it in quotes")
    if whole:
        return int(text)
    if not broken:
        return int(text, 16)
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Broken(f"the number {text} is too large", line, column)
    return value


class _Budget:
    """Counts values as they are copied: an alias counts each time that it is used."""

    def __init__(self, root: Node) -> None:
        self._left = NODES_MAX
        self._root = root

    def take(self) -> None:
        self._left -= 1
        if self._left < 0:
            message = f"aliases make more than {NODES_MAX} values of this document"
            raise _Broken(message, self._root.line, self._root.column, "write fewer aliases of aliases")


def _plain(node: Node, budget: _Budget, depth: int = 0) -> Any:
    budget.take()
    if depth > DEPTH_MAX:
        raise _Broken(f"nested deeper than {DEPTH_MAX} levels", node.line, node.column)
    if node.kind == "map":
        return {name: _plain(entry.node, budget, depth + 1) for name, entry in node.entries.items()}
    if node.kind == "list":
        return [_plain(item, budget, depth + 1) for item in node.items]
    return node.value
