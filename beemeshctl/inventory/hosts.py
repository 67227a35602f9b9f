"""Names of hosts: ranges such as `n[01:20]`, and the patterns of `--limit`."""

from __future__ import annotations

import fnmatch
import itertools
import re
import string
from collections.abc import Collection, Mapping, Sequence

from beemesh.errors import InvalidInput

MAX_RANGE_HOSTS = 10_000
"""Hosts that one range may stand for: ten times the largest mesh, so a slip of the keyboard does not eat all memory."""

LIMIT_CHARS_MAX = 16_384
"""Of a `--limit`: room for the names of a thousand hosts, while globs may take time by the square of it."""

_RANGE = re.compile(r"\[([^\[\]]*)\]")


def expand(pattern: str) -> list[str]:
    """The names that a pattern such as `n[01:20:2]` or `rack[a:c]` stands for, in order.

    Raises `InvalidInput` when a range is malformed, runs backwards or is too long.
    """
    parts = _RANGE.split(pattern)
    if "[" in "".join(parts[::2]) or "]" in "".join(parts[::2]):
        raise InvalidInput(f"{pattern!r}: brackets do not match", hint="write ranges as n[01:20] or n[a:c]")
    choices: list[list[str]] = []
    total = 1
    for index, part in enumerate(parts):
        choices.append([part] if index % 2 == 0 else _range(part, pattern))
        total *= len(choices[-1])
        if total > MAX_RANGE_HOSTS:
            raise InvalidInput(f"{pattern[:80]!r} stands for more than {MAX_RANGE_HOSTS} hosts, the most allowed")
    return ["".join(combination) for combination in itertools.product(*choices)]


def _range(text: str, pattern: str) -> list[str]:
    """The strings between the ends of one range, both included, as Ansible has it."""
    pieces = text.split(":")
    if (
        len(pieces) not in (2, 3)
        or not pieces[1]
        or (len(pieces) == 3 and not re.fullmatch(r"[1-9]\d{0,5}", pieces[2]))
    ):
        raise InvalidInput(f"{pattern!r}: [{text}] is not a range", hint="write first:last or first:last:step")
    begin, end, step = pieces[0] or "0", pieces[1], int(pieces[2]) if len(pieces) == 3 else 1
    if begin.isdecimal() and end.isdecimal():
        if len(begin) > 1 and begin.startswith("0") and len(begin) != len(end):
            raise InvalidInput(f"{pattern!r}: both ends of [{text}] need the same number of digits")
        if max(len(begin), len(end)) > 9 or (int(end) - int(begin)) // step >= MAX_RANGE_HOSTS:
            raise InvalidInput(f"{pattern!r}: [{text}] is too long; at most {MAX_RANGE_HOSTS} hosts are allowed")
        width = len(begin) if begin.startswith("0") else 0
        names = [str(number).zfill(width) for number in range(int(begin), int(end) + 1, step)]
    elif len(begin) == len(end) == 1 and begin in string.ascii_letters and end in string.ascii_letters:
        letters = string.ascii_letters
        names = list(letters[letters.index(begin) : letters.index(end) + 1 : step])
    else:
        raise InvalidInput(f"{pattern!r}: [{text}] must go from number to number or from letter to letter")
    if not names:
        raise InvalidInput(f"{pattern!r}: [{text}] runs backwards")
    return names


def limit(pattern: str, hosts: Sequence[str], groups: Mapping[str, Collection[str]]) -> list[str]:
    """The hosts that a `--limit` pattern chooses, in the inventory's order.

    Parts are separated by `:` or `,`: a name or glob of hosts or groups adds, `!x` takes away, `&x` keeps only what is
    in both. As in Ansible, additions come first, then intersections, then exclusions; a pattern without additions
    starts from all. Raises `InvalidInput` when a plain name matches nothing, or nothing is left.
    """
    if len(pattern) > LIMIT_CHARS_MAX:
        raise InvalidInput(f"--limit {pattern[:40]!r}… has more than {LIMIT_CHARS_MAX} characters")
    parts = [part.strip() for part in re.split(r"[,:](?![^\[]*\])", pattern) if part.strip()]
    adds = [part for part in parts if part[0] not in "!&"] or ["all"]
    chosen: set[str] = set()
    for part in adds:
        chosen |= _matching(part, hosts, groups)
    for part in parts:
        if part.startswith("&"):
            chosen &= _matching(part[1:], hosts, groups)
    for part in parts:
        if part.startswith("!"):
            chosen -= _matching(part[1:], hosts, groups)
    if not chosen:
        raise InvalidInput(f"--limit {pattern!r} leaves no host", hint="hosts: " + ", ".join(hosts[:20]))
    return [host for host in hosts if host in chosen]


def _matching(pattern: str, hosts: Sequence[str], groups: Mapping[str, Collection[str]]) -> set[str]:
    if pattern.startswith("~"):
        raise InvalidInput(
            f"--limit: regular expressions ({pattern!r}) are not supported", hint="use a glob such as n*"
        )
    found: set[str] = set()
    for name in _expand_if_range(pattern):
        found |= {host for host in hosts if fnmatch.fnmatchcase(host, name)}
        for group, members in groups.items():
            if fnmatch.fnmatchcase(group, name):
                found |= set(members)
    if not found and not set("*?[") & set(pattern):
        import difflib

        close = difflib.get_close_matches(pattern, [*hosts, *groups], n=1)
        hint = f"did you mean {close[0]}?" if close else "hosts: " + ", ".join(hosts[:20])
        raise InvalidInput(f"--limit: {pattern!r} is neither a host nor a group of the inventory", hint=hint)
    return found


def _expand_if_range(pattern: str) -> list[str]:
    return expand(pattern) if re.search(r"\[[^\]]*:[^\]]*\]", pattern) else [pattern]
