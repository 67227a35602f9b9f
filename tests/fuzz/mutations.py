"""Makes bad inputs out of good ones: bytes cut, flipped and spliced, lengths that lie, and trees of another shape.

Every decision is asked of a chooser, so that Hypothesis can shrink what it finds, and a long run can be fast.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tests.fuzz.target import Form

Choose = Callable[[int], int]
"""A number from 0 up to, and without, the one that is given."""

INPUT_BYTES_MAX = 96 * 1024
"""Mutants are cut here: larger ones find nothing that these do not."""

_INTERESTING = (0x00, 0x01, 0x7F, 0x80, 0x8F, 0x90, 0x91, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC4, 0xC6, 0xCB, 0xCF, 0xD3)
_INTERESTING += (0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xFE, 0xFF, *b"\n\r\t\"'{}[]:,-&*!|>%@`#0")
_LIES = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdd\x00",
)
_LIES += (
    b"\xdc\xff\xff",
    b"\xde\xff\xff",
    b"\xc6\x00\x10\x00\x00",
    b"\xd9\xff",
    b"\xc4\xff",
    b"\x9f",
    b"\x8f",
    b"\xbf",
)
_WORDS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x00", b"\xff" * 8, b"\x00" * 8)
_WORDS += (
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x00",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    "\u2028".encode(),
    b"\x1b[2J",
    b"\r\n\r\n",
)
_WORDS += (
    b"99999999999999999999",
    b"-1",
    b"1e999999",
    b"0x",
    b"NaN",
    b"<<: *a",
    b"&a [*a]",
    b"!!python/object:os.system ",
)
_WORDS += (b"{{ 7*7 }}", b"../" * 8, b"/dev/stdin", b"$(id)", b"%n%s", b"[1:99999999]")
INNER_BYTES_MIN = 64
"""Longer bytes inside a message are no key, id or signature, but mostly a message of their own."""
NESTED = "\0nested\0"
_DEPTHS = (3, 40, 600, 5_000, 40_000)
_COUNTS = (2, 17, 300, 4_000)
_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**32 - 1,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
    0.5,
)
_ODD += (1e308, -0.0, math.nan, math.inf, "", "x", "\0", "\u00e9\u2603\U0001f41d", "a" * 300, "a" * 70_000, "../../x")
_ODD += (
    "-1",
    "99999999999999999999",
    "1e999999999",
    "0x10",
    "1Ei",
    "null",
    "2026-13-45T99:99:99Z",
    "9999-99-99",
    "/",
    ".",
)
_ODD += (
    b"",
    b"\0",
    bytes(16),
    bytes(32),
    b"\xff" * 32,
    bytes(64),
    bytes(70_000),
    [],
    {},
    [None],
    [[]],
    {"": None},
    {"a": {}},
)


def mutant(seeds: Sequence[bytes], form: Form, choose: Choose, head: int = 0) -> bytes:
    """One bad input (or, seldom, one that is still good). The first `head` bytes seldom change."""
    data = seeds[choose(len(seeds))]
    if head and choose(8):
        return data[:head] + mutant([data[head:], *(seed[head:] for seed in seeds)], form, _mostly_first(choose))
    for _ in range(1 + choose(3)):
        if form in ("msgpack", "json") and choose(3):
            data = _tree_mutant(data, seeds, form, choose)
        else:
            data = _BYTE_STEPS[choose(len(_BYTE_STEPS))](data, seeds, choose)
    return data[:INPUT_BYTES_MAX]


def _mostly_first(choose: Choose) -> Choose:
    """The same chooser, whose first answer is 0: the body that belongs to the head."""
    asked = False

    def first(count: int) -> int:
        nonlocal asked
        asked, before = True, asked
        return choose(count) if before else 0

    return first


# --- bytes -----------------------------------------------------------------------------------------------------------


def _place(data: bytes, choose: Choose) -> int:
    return choose(len(data) + 1)


def _cut(data: bytes, _seeds: Sequence[bytes], choose: Choose) -> bytes:
    return data[: _place(data, choose)]


def _behead(data: bytes, _seeds: Sequence[bytes], choose: Choose) -> bytes:
    return data[_place(data, choose) :]


def _flip(data: bytes, _seeds: Sequence[bytes], choose: Choose) -> bytes:
    if not data:
        return b"\0"
    bit = choose(len(data) * 8)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _set(data: bytes, _seeds: Sequence[bytes], choose: Choose) -> bytes:
    if not data:
        return b"\xff"
    changed = bytearray(data)
    changed[choose(len(data))] = _INTERESTING[choose(len(_INTERESTING))]
    return bytes(changed)


def _overwrite(words: Sequence[bytes]) -> Callable[[bytes, Sequence[bytes], Choose], bytes]:
    def step(data: bytes, _seeds: Sequence[bytes], choose: Choose) -> bytes:
        at, word = _place(data, choose), words[choose(len(words))]
        return data[:at] + word + data[at + (len(word) if choose(2) else 0) :]

    return step


def _drop(data: bytes, _seeds: Sequence[bytes], choose: Choose) -> bytes:
    at = _place(data, choose)
    return data[:at] + data[at + 1 + choose(32) :]


def _repeat(data: bytes, _seeds: Sequence[bytes], choose: Choose) -> bytes:
    at = _place(data, choose)
    part = data[at : at + 1 + choose(64)]
    return data[:at] + part * _COUNTS[choose(len(_COUNTS))] + data[at:]


def _splice(data: bytes, seeds: Sequence[bytes], choose: Choose) -> bytes:
    other = seeds[choose(len(seeds))]
    return data[: _place(data, choose)] + other[_place(other, choose) :]


def _nest(data: bytes, _seeds: Sequence[bytes], choose: Choose) -> bytes:
    at = _place(data, choose)
    opening = (b"\x91", b"\x81\xa1a", b"[", b'{"a":', b"- ", b"{{", b"(", b"\x81\x01")[choose(8)]
    return data[:at] + opening * _DEPTHS[choose(len(_DEPTHS))] + data[at:]


_BYTE_STEPS: tuple[Callable[[bytes, Sequence[bytes], Choose], bytes], ...] = (
    _cut,
    _behead,
    _flip,
    _flip,
    _set,
    _overwrite(_LIES),
    _overwrite(_WORDS),
    _drop,
    _repeat,
    _splice,
    _nest,
)


# --- trees -----------------------------------------------------------------------------------------------------------


def _tree_mutant(data: bytes, seeds: Sequence[bytes], form: Form, choose: Choose) -> bytes:
    tree, encode = _parsed(data, form)
    if encode is None:
        return _BYTE_STEPS[choose(len(_BYTE_STEPS))](data, seeds, choose)
    try:
        return encode(_changed(tree, seeds, form, choose))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return data


def _parsed(data: bytes, form: Form) -> tuple[Any, Callable[[Any], bytes] | None]:
    try:
        if form == "msgpack":
            return msgspec.msgpack.decode(data), msgspec.msgpack.encode
        return json.loads(data), _json
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None, None


def _json(tree: Any) -> bytes:
    text = json.dumps(tree, default=lambda odd: odd.decode("latin-1") if isinstance(odd, bytes) else str(odd))
    for depth in _DEPTHS:
        mark = json.dumps(f"{NESTED}{depth}")
        text = text.replace(mark, "[" * depth + "]" * depth)
    return text.encode()


def _changed(tree: Any, seeds: Sequence[bytes], form: Form, choose: Choose) -> Any:
    """The tree with one node changed."""
    places = _places(tree)
    path = places[choose(len(places))]
    tree = copy.deepcopy(tree)
    if not path:
        return _other(tree, seeds, form, choose)
    holder = tree
    for step in path[:-1]:
        holder = holder[step]
    key = path[-1]
    if form == "msgpack" and isinstance(holder[key], bytes) and len(holder[key]) > INNER_BYTES_MIN and choose(4):
        holder[key] = _inner(holder[key], seeds, choose)
        return tree
    match choose(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[_ODD[choose(len(_ODD))] if choose(2) and form == "msgpack" else "unknown"] = holder.pop(key)
        case 1 | 2 if isinstance(holder, list):
            holder.extend([holder[key]] * _COUNTS[choose(len(_COUNTS))])
        case _:
            holder[key] = _other(holder[key], seeds, form, choose)
    return tree


def _inner(data: bytes, seeds: Sequence[bytes], choose: Choose) -> bytes:
    """Bytes inside a message are mostly another message."""
    return _tree_mutant(data, seeds, "msgpack", choose) if choose(4) else _flip(data, seeds, choose)


def _places(tree: Any) -> list[tuple[Any, ...]]:
    """Paths to up to 400 nodes, the root first."""
    found: list[tuple[Any, ...]] = [()]
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), tree)]
    while waiting and len(found) < 400:
        path, node = waiting.pop(0)
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in items:
            found.append((*path, key))
            waiting.append(((*path, key), child))
    return found


def _other(node: Any, seeds: Sequence[bytes], form: Form, choose: Choose) -> Any:
    """Something else in the place of a node."""
    match choose(10):
        case 0:
            depth = _DEPTHS[choose(len(_DEPTHS))]
            return msgspec.Raw(b"\x91" * depth + b"\xc0") if form == "msgpack" else f"{NESTED}{depth}"
        case 1 if form == "msgpack":
            raw = (
                b"\xa2\xff\xfe",
                b"\xc1",
                b"\xdd\xff\xff\xff\xff",
                b"\xc7\x00\x01",
                b"\xd4\x05\x00",
                b"\xd7\xff" + b"\xff" * 8,
            )
            return msgspec.Raw(raw[choose(len(raw))])
        case 2:
            other, encode = _parsed(seeds[choose(len(seeds))], form)
            places = _places(other) if encode else [()]
            for step in places[choose(len(places))]:
                other = other[step]
            return other
        case 3 if isinstance(node, bytes | str) and node:
            at = choose(len(node))
            return node[:at] + node[at + 1 :]
        case 4 if isinstance(node, int):
            return node + (1, -1, 2**31, 2**40)[choose(4)]
        case 5 if isinstance(node, bytes | str | list):
            return node * _COUNTS[choose(len(_COUNTS))]
        case _:
            return _ODD[choose(len(_ODD))]
