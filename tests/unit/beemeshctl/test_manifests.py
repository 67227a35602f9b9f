"""Manifests are read with the place of every value, within bounds, and never with a traceback."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.errors import InvalidInput, Problem
from beemesh.workloads.objects import Finding, ObjectKey
from beemeshctl.manifests import Loaded, load, load_leniently, read_manifests
from beemeshctl.yaml_documents import DEPTH_MAX, read_documents

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  containers:
    - name: web
      image: localhost/hello:1
"""


def loaded(text: str | bytes) -> Loaded:
    """What a text holds, as from standard input."""
    content = text.encode() if isinstance(text, str) else text
    return load_leniently(["-"], stdin=io.BytesIO(content))


def problem(text: str | bytes) -> Problem:
    """The one problem of a text."""
    problems = loaded(text).problems
    assert len(problems) == 1, problems
    return problems[0]


def value(text: str) -> object:
    """The plain value of one document."""
    [document] = read_documents(text)
    assert document.mistakes == []
    return document.data


def test_places_of_values_and_keys() -> None:
    """Every value and key is found at its line and column; what is missing, at what should hold it."""
    [item] = loaded("# comment\n---\n" + POD).objects
    assert item.locate(("spec", "containers", 0, "image")) == ("-", 9, 14)
    assert item.locate(("spec", "containers", 0, "image"), at_key=True) == ("-", 9, 7)
    assert item.locate(("metadata", "name")) == ("-", 5, 18)
    assert item.locate(("spec", "containers", 0, "ports", 3)) == ("-", 8, 7)
    assert item.locate(("spec", "nope"), at_key=True) == ("-", 6, 1)


def test_lists_are_expanded_with_places() -> None:
    """`kind: List` stands for its items."""
    items = "".join("  - " + POD.replace("\n", "\n    ").rstrip() + "\n" for _ in range(2))
    objects = loaded(f"apiVersion: v1\nkind: List\nitems:\n{items}").objects
    assert [item.locate(("kind",))[1] for item in objects] == [5, 12]
    assert "must have a list of items" in problem("kind: PodList\napiVersion: v1").message


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "given twice: also in line 1"),
        ("a: 1\n\tb: 2\n", 2, 1, "never with tabs"),
        ("a: b: c\n", 1, 5, "needs quotes"),
        ("a: 'x\nb: c\n", 3, 1, "quote is not closed"),
        ("a: *x\n", 1, 4, "has no anchor &x"),
        ("a: &x [*x]\n", 1, 8, "is part of"),
        ("a: !!python/object:os.system x\n", 1, 4, "tag"),
        ("{a: 1}: b\n", 1, 1, "a key must be a plain text"),
        ("a: .inf\n", 1, 4, "no number"),
        ("a: 1e999\n", 1, 4, "too large"),
        (f"a: {'9' * 65}\n", 1, 4, "put it in quotes"),
        ("x: " + "[" * (DEPTH_MAX + 1), 1, DEPTH_MAX + 3, "nested deeper"),
        (b"a: b\nc: \xff\n", 2, 4, "UTF-8"),
        (b"a: b\nc: \x07\n", 2, 1, "no YAML text may hold"),
        ("<<: 5\n", 1, 1, "takes mappings only"),
    ],
)
def test_wrong_yaml(text: str | bytes, line: int, column: int, words: str) -> None:
    """Each mistake is named with line, column and what to do."""
    found = problem(text)
    assert (found.line, found.column) == (line, column)
    assert words in str(found)


def test_a_broken_document_hides_no_other() -> None:
    """Documents beside a broken one are read, and lines go on counting."""
    result = loaded(f"{POD}---\na: [\n---\n{POD}---\nb: 1\nb: 2\n")
    assert [item.locate(())[1] for item in result.objects] == [1, 11]
    assert [found.line for found in result.problems] == [10, 20]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0644", 420),
        ("0o644", 420),
        ("0x1F", 31),
        ("089", 89),
        ("12", 12),
        ("-1.5", -1.5),
        ("1e3", 1000.0),
        ("yes", "yes"),
        ("true", True),
        ("'true'", "true"),
        ("!!str 5", "5"),
        ("1.2.3", "1.2.3"),
        ("64Mi", "64Mi"),
        ("2026-11-21", "2026-11-21"),
        ("[~, null, '']", [None, None, ""]),
        ("{1: a, true: b}", {"1": "a", "true": "b"}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"c": 3, "b": 1}}),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_scalars_mean_what_kubernetes_reads(text: str, expected: object) -> None:
    """YAML 1.2, with Kubernetes' octal numbers and keys that are texts."""
    assert value(text) == expected


def test_aliases_cannot_explode() -> None:
    """Aliases of aliases are refused before they fill the memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "aliases" in problem("\n".join(lines)).message


def test_merges_cannot_explode() -> None:
    """Merge keys count what they copy."""
    wide = "a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}\n"
    text = wide + "".join(f"a{n}: {{<<: *a0}}\n" for n in range(1, 400))
    assert "values" in problem(text).message


def test_directories(tmp_path: Path) -> None:
    """A directory's manifests are read in a stable order; hidden and other files are left alone."""
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b.yaml", "a.yml", "deep/c.json", ".git/x.yaml", ".hidden.yaml", "README.md"):
        (tmp_path / name).write_text(POD)
    assert [Path(item.file).name for item in load([str(tmp_path)])] == ["a.yml", "b.yaml", "c.json"]


def test_what_is_not_there(tmp_path: Path) -> None:
    """Missing and empty places are problems, not silence."""
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    problems = load_leniently([str(tmp_path / "nope.yaml"), str(tmp_path / "empty.yaml")]).problems
    assert ["no such file" in problems[0].message, "holds no object" in problems[1].message] == [True, True]
    (tmp_path / "empty.yaml").unlink()
    assert "holds no manifest" in load_leniently([str(tmp_path)]).problems[0].message


def test_all_problems_of_all_files_at_once(tmp_path: Path) -> None:
    """Strict reading refuses with every problem of every file, in order, and with exit code 2."""
    (tmp_path / "a.yaml").write_text(POD.replace("image", "imag"))
    (tmp_path / "b.yaml").write_text("x: [\n")
    with pytest.raises(InvalidInput) as caught:
        read_manifests([str(tmp_path)])
    assert [(Path(found.file).name, found.line) for found in caught.value.problems] == [
        ("a.yaml", 6),
        ("a.yaml", 7),
        ("b.yaml", 2),
    ]
    assert caught.value.exit_code == 2


def test_lenient_reading_keeps_what_is_right(tmp_path: Path) -> None:
    """For `reconcile`: a broken file stops nothing but itself, and the set says that it is not complete."""
    (tmp_path / "a.yaml").write_text(POD)
    (tmp_path / "b.yaml").write_text(POD.replace("image", "imag").replace("one", "two"))
    found = read_manifests([str(tmp_path)], strict=False)
    assert [item.name for item in found.objects] == ["one"]
    assert len(found.problems) == 2
    assert not found.complete


def test_findings_about_an_object_find_their_place(tmp_path: Path) -> None:
    """What resolution finds later still points into the file."""
    (tmp_path / "a.yaml").write_text(POD)
    found = read_manifests([str(tmp_path / "a.yaml")])
    shown = found.problem(ObjectKey("Pod", "default", "one"), Finding(("spec", "containers", 0), "is odd"))
    assert str(shown) == f"{tmp_path / 'a.yaml'}:6:7: is odd"


def test_ignored_fields_have_their_place() -> None:
    """What `--allow-unsupported` leaves out is listed with line and column."""
    text = POD + "  hostPID: true\n"
    found = read_manifests(["-"], allow_unsupported=True, stdin=io.BytesIO(text.encode()))
    assert [(entry.line, entry.column) for entry in found.ignored] == [(8, 3)]


def test_two_definitions_of_one_object() -> None:
    """The same object twice is refused at the second place."""
    with pytest.raises(InvalidInput) as caught:
        read_manifests(["-"], stdin=io.BytesIO(f"{POD}---\n{POD}".encode()))
    assert [found.line for found in caught.value.problems] == [11]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    """Whatever bytes arrive, reading answers with objects or problems."""
    read_manifests(["-"], strict=False, stdin=io.BytesIO(content))


yaml_ish = st.text(st.sampled_from("ab:-?&*!|>%@`'\"#{}[],~<\n\t 01.\\\u0085\ufeff\U0001f41d"), max_size=60)


@settings(max_examples=400, deadline=None)
@given(yaml_ish)
def test_anything_like_yaml(text: str) -> None:
    """Whatever looks like YAML is read or refused, with a place inside of the text."""
    for found in loaded(text).problems:
        assert 0 <= found.line <= text.count("\n") + text.count("\u0085") + 2


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(codec="ascii", categories=["L"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(plain)
def test_json_is_yaml(data: object) -> None:
    """What JSON says is read as JSON means it."""
    if data is not None:
        assert value(json.dumps(data)) == data
