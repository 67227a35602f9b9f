"""Manifests from files, directories and standard input, checked, with every problem at its line and column."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from beemesh.errors import InvalidInput, Problem
from beemesh.workloads.objects import Finding, ManifestObject, ObjectKey, path_text
from beemesh.workloads.validation import check, check_set
from beemeshctl.yaml_documents import Document, Node, read_documents

FILE_BYTES_MAX = 8 * 1024 * 1024
"""One manifest file: several ConfigMaps of the largest size fit."""

FILES_MAX = 10_000
"""Manifest files below one directory."""

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"


@dataclass(frozen=True, slots=True)
class LoadedObject:
    """One object as it stands in a file. `data` is plain and unchecked, and may hold secrets."""

    data: object = field(repr=False)
    file: str
    node: Node = field(repr=False)

    def locate(self, path: tuple[str | int, ...], *, at_key: bool = False) -> tuple[str, int, int]:
        """File, line and column (from 1) of the value at `path`, or of what should hold it."""
        return (self.file, *self.node.locate(path, at_key=at_key))

    def problem(self, finding: Finding) -> Problem:
        """A finding about this object, with its place."""
        file, line, column = self.locate(finding.path, at_key=finding.at_key)
        return Problem(finding.message, file, line, column, path_text(finding.path), finding.hint)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the sources hold, and what could not be read. `broken` names the files with problems."""

    objects: tuple[LoadedObject, ...]
    problems: tuple[Problem, ...]

    @property
    def broken(self) -> frozenset[str]:
        """Files of which some part could not be read."""
        return frozenset(problem.file for problem in self.problems)


@dataclass(frozen=True, slots=True)
class ManifestSet:
    """Checked objects with their places. `problems` is empty unless the set was read leniently; then what is broken is
    missing from `objects`, and nothing may be pruned on the strength of its absence (`complete` is False)."""

    objects: tuple[ManifestObject, ...]
    problems: tuple[Problem, ...]
    ignored: tuple[Problem, ...]
    sources: dict[ObjectKey, LoadedObject] = field(repr=False)

    @property
    def complete(self) -> bool:
        """Whether everything in the sources could be read and is right."""
        return not self.problems

    def problem(self, key: ObjectKey, finding: Finding) -> Problem:
        """A finding about one of the objects, with its place (such as `resolve` reports)."""
        source = self.sources.get(key)
        return source.problem(finding) if source else Problem(f"{key}: {finding.message}", hint=finding.hint)


def read_manifests(
    sources: Sequence[str],
    *,
    namespace: str | None = None,
    default_namespace: str = "",
    allow_unsupported: bool = False,
    strict: bool = True,
    stdin: BinaryIO | None = None,
) -> ManifestSet:
    """Load and check everything. Strict: raises `InvalidInput` with all problems of all files; else returns them."""
    loaded = load_leniently(sources, stdin=stdin)
    problems = list(loaded.problems)
    ignored: list[Problem] = []
    objects: list[tuple[ManifestObject, LoadedObject]] = []
    for item in loaded.objects:
        checked = check(
            item.data, namespace=namespace, default_namespace=default_namespace, allow_unsupported=allow_unsupported
        )
        problems.extend(item.problem(finding) for finding in checked.findings)
        ignored.extend(item.problem(Finding(entry.path, entry.reason, at_key=True)) for entry in checked.ignored)
        if checked.object is not None:
            objects.append((checked.object, item))
    doubled = check_set([manifest for manifest, _ in objects])
    problems.extend(objects[index][1].problem(finding) for index, finding in doubled)
    if strict:
        refuse(problems)
    spoiled = {objects[index][0].key for index, _ in doubled}
    kept = [(manifest, item) for manifest, item in objects if manifest.key not in spoiled]
    return ManifestSet(
        tuple(manifest for manifest, _ in kept),
        _in_order(problems),
        tuple(ignored),
        {manifest.key: item for manifest, item in kept},
    )


def load(sources: Sequence[str], *, stdin: BinaryIO | None = None) -> list[LoadedObject]:
    """Every object of the sources (files, directories, `-`); raises `InvalidInput` with everything unreadable."""
    loaded = load_leniently(sources, stdin=stdin)
    refuse(loaded.problems)
    return list(loaded.objects)


def load_leniently(sources: Sequence[str], *, stdin: BinaryIO | None = None) -> Loaded:
    """Every object that can be read; a broken document or file hides neither the others nor their problems."""
    objects: list[LoadedObject] = []
    problems: list[Problem] = []
    for source in dict.fromkeys(sources):
        for name, content in _contents(source, stdin, problems):
            text = _decode(name, content, problems)
            if text is not None:
                _read_text(name, text, objects, problems)
    return Loaded(tuple(objects), tuple(problems))


def _read_text(name: str, text: str, objects: list[LoadedObject], problems: list[Problem]) -> None:
    empty = True
    for document in read_documents(text):
        empty = False
        _take(document, name, objects, problems)
    if empty:
        problems.append(Problem("holds no object", name, hint="a manifest begins with apiVersion and kind"))


def refuse(problems: Iterable[Problem]) -> None:
    """Raise `InvalidInput` when there are problems."""
    listed = _in_order(problems)
    if not listed:
        return
    files = sorted({problem.file for problem in listed if problem.file})
    what = files[0] if len(files) == 1 else f"{len(files)} files" if files else "the manifest"
    raise InvalidInput(f"{what} cannot be applied; nothing was changed", problems=listed)


def _in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column)))


def _contents(source: str, stdin: BinaryIO | None, problems: list[Problem]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file behind a source; what cannot be read becomes a problem."""
    if source == STDIN:
        if stdin is None:
            problems.append(Problem("standard input is not to be had here", STDIN))
            return
        yield from _bounded(STDIN, stdin, problems)
        return
    path = Path(source)
    if path.is_dir():
        files = _files_below(path, problems)
        if not files:
            problems.append(Problem(f"holds no manifest ({', '.join(SUFFIXES)})", source))
    else:
        files = [path]
    for file in files:
        try:
            with file.open("rb") as stream:
                yield from _bounded(str(file), stream, problems)
        except FileNotFoundError:
            problems.append(Problem("there is no such file or directory", str(file)))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            problems.append(Problem(f"cannot be read: {reason.lower()}", str(file)))


def _files_below(root: Path, problems: list[Problem]) -> list[Path]:
    """Manifest files below a directory in a stable order; hidden ones and links to directories are left alone."""

    def unreadable(error: OSError) -> None:
        problems.append(Problem(f"cannot be read: {(error.strerror or str(error)).lower()}", str(error.filename)))

    files: list[Path] = []
    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files.extend(
            Path(folder) / name for name in sorted(names) if name.endswith(SUFFIXES) and not name.startswith(".")
        )
        if len(files) > FILES_MAX:
            problems.append(Problem(f"holds more than {FILES_MAX} manifest files", str(root), hint="name fewer"))
            return files[:FILES_MAX]
    return files


def _bounded(name: str, stream: BinaryIO, problems: list[Problem]) -> Iterator[tuple[str, bytes]]:
    content = stream.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        problems.append(Problem(f"is larger than {FILE_BYTES_MAX} bytes", name, hint="split it"))
        return
    yield name, content


def _decode(name: str, content: bytes, problems: list[Problem]) -> str | None:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        problems.append(Problem("is no UTF-8 text here", name, line, column, hint="save the file as UTF-8"))
        return None


def _take(document: Document, file: str, objects: list[LoadedObject], problems: list[Problem]) -> None:
    problems.extend(
        Problem(mistake.message, file, mistake.line, mistake.column, hint=mistake.hint) for mistake in document.mistakes
    )
    if document.node is not None:
        _expand(document.data, document.node, file, objects, problems)


LIST_FIELDS = ("apiVersion", "kind", "metadata", "items")


def _expand(data: object, node: Node, file: str, objects: list[LoadedObject], problems: list[Problem]) -> None:
    """Add an object, or each item of a `kind: List` (also `PodList` and the like)."""
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(kind, str) or not kind.endswith("List"):
        objects.append(LoadedObject(data, file, node))
        return
    whole = LoadedObject(data, file, node)
    for name in data:
        if name not in LIST_FIELDS:
            finding = Finding((name,), f"{name[:60]!r} is no field of a {kind[:60]}", at_key=True)
            problems.append(whole.problem(finding))
    items = data.get("items")
    if not isinstance(items, list):
        problems.append(whole.problem(Finding(("items",), f"a {kind[:60]} must have a list of items")))
        return
    for index, item in enumerate(items):
        _expand(item, node.entries["items"].node.items[index], file, objects, problems)
