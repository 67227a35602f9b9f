"""Reads an inventory: groups, hosts, `group_vars/` and `host_vars/`, merged with Ansible's precedence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beemesh.errors import InvalidInput, Problem
from beemeshctl.inventory.hosts import expand
from beemeshctl.inventory.positions import Document, YamlPath, parse_document, read_document
from beemeshctl.inventory.schema import check_inventory, check_variables

MAX_HOSTS = 1000
"""Largest mesh (DESIGN section 1)."""

MAX_PROBLEMS = 50
"""Problems listed in one go: beyond that a person mends the first ones first."""

_VARIABLE_SUFFIXES = ("", ".yml", ".yaml")


@dataclass(frozen=True, slots=True)
class Value:
    """A variable as written, and where."""

    raw: Any
    document: Document
    path: YamlPath

    def problem(self, message: str, *, inside: YamlPath = (), hint: str = "") -> Problem:
        """A problem with this value, or with something inside it."""
        return self.document.problem((*self.path, *inside), message, hint=hint)


@dataclass(slots=True)
class Group:
    """A group of the inventory."""

    name: str
    vars: dict[str, Value] = field(default_factory=dict)
    children: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    depth: int = 0


@dataclass(slots=True)
class Host:
    """A host with its merged variables, not rendered yet."""

    name: str
    groups: list[str]
    vars: dict[str, Value]


@dataclass(slots=True)
class Inventory:
    """All hosts in the order of the file, and the members of each group."""

    file: Path
    hosts: dict[str, Host]
    groups: dict[str, list[str]]


def read_inventory(path: Path) -> Inventory:
    """Read an inventory and all beside it; raises `InvalidInput` with every problem found, each with its place."""
    if path.is_dir():
        raise InvalidInput(f"{path} is a directory", hint="give one inventory file, such as inventory.yaml")
    if path.suffix in (".ini", ".cfg") or _looks_like_ini(path):
        raise InvalidInput(
            f"{path} looks like an INI inventory, which is not read",
            hint=f"convert it once: ansible-inventory -i {path} --list --yaml > inventory.yaml",
        )
    document = read_document(path)
    _refuse(document.file, list(check_inventory(document)))
    tree = _Tree(document)
    tree.read()
    beside = _Beside(path.parent)
    problems = [*tree.problems, *beside.read(tree.groups, tree.host_vars)]
    _refuse(document.file, problems)
    if not tree.host_vars:
        raise InvalidInput(f"{path} names no host", hint="add one below all.hosts")
    if len(tree.host_vars) > MAX_HOSTS:
        raise InvalidInput(f"{path} names {len(tree.host_vars)} hosts; a mesh has at most {MAX_HOSTS}")
    return _merge(path, tree, beside)


def _refuse(file: str, problems: list[Problem]) -> None:
    if not problems:
        return
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    problems.sort(key=lambda item: (item.file, item.line, item.column))
    raise InvalidInput(f"{file} is not a valid inventory: {count}", problems=tuple(problems[:MAX_PROBLEMS]))


def _looks_like_ini(path: Path) -> bool:
    """Whether the first line that says something is a section such as `[web]` or `host key=value`."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                text = line.strip()
                if not text or text[0] in "#;":
                    continue
                if text.startswith("[") and text.endswith("]"):
                    return True
                return "=" in text.split(" #")[0] and ":" not in text
    except OSError:
        return False
    return False


class _Tree:
    """Groups and hosts as one file names them."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.groups: dict[str, Group] = {"all": Group("all"), "ungrouped": Group("ungrouped")}
        self.host_vars: dict[str, dict[str, Value]] = {}
        self.problems: list[Problem] = []

    def read(self) -> None:
        for name, body in (self._document.data or {}).items():
            self._group(name, body, (name,), ())
        children = {child for group in self.groups.values() for child in group.children}
        for name in self.groups:
            if name != "all" and name not in children:
                self.groups["all"].children.append(name)
        grouped = {
            host for group in self.groups.values() if group.name not in ("all", "ungrouped") for host in group.hosts
        }
        self.groups["ungrouped"].hosts = [host for host in self.host_vars if host not in grouped]
        self._measure("all", 0)

    def _group(self, name: str, body: Any, path: YamlPath, ancestors: tuple[str, ...]) -> None:
        if name in ancestors:
            circle = " → ".join([*ancestors[ancestors.index(name) :], name])
            self.problems.append(self._document.problem(path, f"group {name} contains itself ({circle})", key=True))
            return
        group = self.groups.setdefault(name, Group(name))
        body = body or {}
        for key, raw in (body.get("vars") or {}).items():
            group.vars[key] = Value(raw, self._document, (*path, "vars", key))
        for pattern, raw_vars in (body.get("hosts") or {}).items():
            self._hosts(group, pattern, raw_vars or {}, (*path, "hosts", pattern))
        for child, child_body in (body.get("children") or {}).items():
            self._group(child, child_body, (*path, "children", child), (*ancestors, name))
            if child not in group.children:
                group.children.append(child)

    def _hosts(self, group: Group, pattern: str, raw_vars: dict[str, Any], path: YamlPath) -> None:
        try:
            names = expand(pattern)
        except InvalidInput as error:
            self.problems.append(self._document.problem(path, error.message, hint=error.hint, key=True))
            return
        for name in names:
            if name not in group.hosts:
                group.hosts.append(name)
            variables = self.host_vars.setdefault(name, {})
            variables.update({key: Value(raw, self._document, (*path, key)) for key, raw in raw_vars.items()})

    def _measure(self, name: str, depth: int) -> None:
        """Longest way from `all`: a deeper group's variables win."""
        group = self.groups[name]
        group.depth = max(group.depth, depth)
        for child in group.children:
            if depth <= len(self.groups):
                self._measure(child, depth + 1)


class _Beside:
    """The variables of `group_vars/` and `host_vars/`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.groups: dict[str, dict[str, Value]] = {}
        self.hosts: dict[str, dict[str, Value]] = {}

    def read(self, groups: dict[str, Group], hosts: dict[str, dict[str, Value]]) -> Iterator[Problem]:
        for kind, names, found in (("group_vars", groups, self.groups), ("host_vars", hosts, self.hosts)):
            if not (self._folder / kind).is_dir():
                continue
            for name in names:
                for file in self._files(self._folder / kind / name):
                    yield from self._file(file, found.setdefault(name, {}))

    @staticmethod
    def _files(base: Path) -> list[Path]:
        files: list[Path] = []
        for suffix in _VARIABLE_SUFFIXES:
            candidate = base.with_name(base.name + suffix)
            if candidate.is_file():
                files.append(candidate)
            elif not suffix and candidate.is_dir():
                files += sorted(item for item in candidate.iterdir() if item.suffix in (".yml", ".yaml"))
        return files

    @staticmethod
    def _file(file: Path, into: dict[str, Value]) -> Iterator[Problem]:
        if file.suffix == "" and file.read_bytes()[:14] == b"$ANSIBLE_VAULT":
            raise InvalidInput(f"{file} is encrypted with ansible-vault, which is not read")
        document = (
            parse_document(file.read_text(encoding="utf-8"), str(file)) if file.suffix == "" else read_document(file)
        )
        yield from check_variables(document)
        if isinstance(document.data, dict):
            into.update({key: Value(raw, document, (key,)) for key, raw in document.data.items()})


def _merge(path: Path, tree: _Tree, beside: _Beside) -> Inventory:
    parents: dict[str, set[str]] = {}
    for group in tree.groups.values():
        for child in group.children:
            parents.setdefault(child, set()).add(group.name)
    hosts: dict[str, Host] = {}
    members: dict[str, list[str]] = {name: [] for name in tree.groups}
    for name, own in tree.host_vars.items():
        direct = {group.name for group in tree.groups.values() if name in group.hosts}
        mine = _ancestors(direct, parents) | {"all"}
        ordered = sorted(mine, key=lambda group: (tree.groups[group].depth, _priority(tree.groups[group]), group))
        variables: dict[str, Value] = {}
        # Ansible's order: all, the other groups, then the files beside the inventory in the same order, then the host.
        for source in ({group: tree.groups[group].vars for group in ordered}, beside.groups):
            for group_name in ordered:
                variables.update(source.get(group_name, {}))
        variables.update(own)
        variables.update(beside.hosts.get(name, {}))
        hosts[name] = Host(name, sorted(mine - {"all"}), variables)
        for group_name in mine:
            members[group_name].append(name)
    return Inventory(path, hosts, members)


def _ancestors(direct: set[str], parents: dict[str, set[str]]) -> set[str]:
    found, queue = set(direct), list(direct)
    while queue:
        for parent in parents.get(queue.pop(), ()):
            if parent not in found:
                found.add(parent)
                queue.append(parent)
    return found


def _priority(group: Group) -> int:
    value = group.vars.get("ansible_group_priority")
    return value.raw if value and isinstance(value.raw, int) else 1
