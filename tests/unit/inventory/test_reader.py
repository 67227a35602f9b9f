"""Inventories mean what Ansible takes them to mean, and mistakes are shown where they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from beemesh.errors import ExitCode, InvalidInput
from beemeshctl.inventory.desired import DesiredNode, desired_nodes, parse_jump
from beemeshctl.inventory.reader import read_inventory
from beemeshctl.inventory.variables import table
from schemas.generate import SCHEMAS, text_of

ROOT = Path(__file__).parents[3]


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "inventory.yaml"


def _nodes(folder: Path, text: str, **beside: str) -> dict[str, DesiredNode]:
    files = {"inventory.yaml": text, **{name.replace("__", "/"): content for name, content in beside.items()}}
    inventory = read_inventory(_write(folder, files))
    return {node.host: node for node in desired_nodes(inventory, inventory.hosts)}


def _problems(folder: Path, text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        _nodes(folder, text)
    assert caught.value.exit_code == ExitCode.INVALID_INPUT
    return str(caught.value).replace(f"{folder}/", "")


PRECEDENCE = """
all:
  vars: {beemesh_site: all, beemesh_zone: all, beemesh_org: all}
  children:
    parent:
      vars: {beemesh_site: parent, beemesh_zone: parent}
      children:
        child:
          vars: {beemesh_site: child}
          hosts:
            a:
            b: {beemesh_site: host}
  hosts:
    c:
"""


def test_nearer_variables_win(tmp_path: Path) -> None:
    """All, then parent, then child, then host."""
    nodes = _nodes(tmp_path, PRECEDENCE)
    seen = {name: tuple(node.settings["node"][key] for key in ("site", "zone", "org")) for name, node in nodes.items()}
    assert seen == {"a": ("child", "parent", "all"), "b": ("host", "parent", "all"), "c": ("all", "all", "all")}


def test_files_beside_the_inventory_are_read_with_ansibles_precedence(tmp_path: Path) -> None:
    """`group_vars` override what the inventory says of groups, `host_vars` override everything."""
    nodes = _nodes(
        tmp_path,
        PRECEDENCE,
        **{
            "group_vars/all.yml": "beemesh_zone: file-all",
            "group_vars/child/x.yml": "beemesh_site: file-child",
            "host_vars/b.yaml": "beemesh_site: file-host",
        },
    )
    seen = {name: tuple(node.settings["node"][key] for key in ("site", "zone")) for name, node in nodes.items()}
    assert seen == {"a": ("file-child", "file-all"), "b": ("file-host", "file-all"), "c": ("all", "file-all")}


def test_templates_see_the_host_and_its_other_variables(tmp_path: Path) -> None:
    """Expressions are rendered per host; a lone one keeps its type."""
    text = """
all:
  vars:
    base: 7000
    beemesh_gossip_port: "{{ base + (inventory_hostname[1:] | int) }}"
    beemesh_labels: {host: "{{ inventory_hostname }}", group: "{{ group_names | join('.') }}"}
  children: {g: {hosts: {"n[1:2]": }}}
"""
    nodes = _nodes(tmp_path, text)
    assert [node.gossip_port for node in nodes.values()] == [7001, 7002]
    assert nodes["n2"].settings["node"]["labels"] == {"host": "n2", "group": "g"}


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("{{ missing }}", "undefined"),
        ("{{ beemesh_site }}", "refers to itself"),
        ("{{ 1 / 0 }}", "worked out"),
        ("{{ oops", "rendered"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|undefined"),
    ],
)
def test_templates_that_fail_say_why_and_where(tmp_path: Path, expression: str, why: str) -> None:
    """No template brings a traceback, or gets out of the sandbox."""
    text = f'all:\n  hosts:\n    a:\n      beemesh_site: "{expression}"\n'
    problems = _problems(tmp_path, text)
    assert "inventory.yaml:4:21" in problems
    assert re.search(why, problems)


def test_every_mistake_is_shown_at_its_place_in_one_go(tmp_path: Path) -> None:
    """File, line and column, what was expected, and what was probably meant."""
    text = """all:
  vars:
    beemesh_mehs: home
    ansible_hosst: x
    beemesh_gossip_port: 70000
    ansible_password: 12345678
  hosst: {}
  children:
    g:
      hosts:
        a: {beemesh_labels: 3, beemesh_reserve: {cpu_percnt: 3}, beemesh_runtime: dockr}
"""
    problems = _problems(tmp_path, text)
    for expected in (
        "inventory.yaml:3:5: beemesh_mehs: unknown variable (did you mean beemesh_mesh?)",
        "inventory.yaml:4:5: ansible_hosst: unknown variable; did you mean ansible_host?",
        "inventory.yaml:5:26: beemesh_gossip_port: 70000 is above 65535",
        "inventory.yaml:6:23: ansible_password: the value is not text",
        "inventory.yaml:7:3: hosst: unknown key in all (did you mean hosts?)",
        "inventory.yaml:11:29: beemesh_labels: 3 is not a mapping",
        "cpu_percnt: unknown key in beemesh_reserve (did you mean cpu_percent?)",
        "beemesh_runtime: 'dockr' is none of mock, podman, process",
    ):
        assert expected in problems
    assert "12345678" not in problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all: [", "inventory.yaml:1:"),
        ("all:\n  hosts:\n    a:\n    a:\n", "inventory.yaml:4:5: a is given twice (first on line 3"),
        ("all:\n  hosts:\n    a: {beemesh_site: !vault x}\n", "ansible-vault"),
        ("", "empty"),
        ("all:\n  vars: {}\n", "names no host"),
        ("- a\n", "is not a mapping"),
        ("[web]\nhost1 ansible_host=1.2.3.4\n", "INI"),
        ("host1 ansible_host=1.2.3.4\n", "INI"),
        ("all:\n  hosts:\n    Under_score:\n", "set beemesh_name"),
        ("all:\n  hosts:\n    a: {ansible_ssh_common_args: -o StrictHostKeyChecking=no}\n", "only -J"),
        ("all:\n  hosts:\n    a: {ansible_ssh_extra_args: -v}\n", "not supported"),
        ("all:\n  hosts:\n    a: {ansible_become_method: su}\n", "only sudo"),
        ("all:\n  hosts:\n    a: {beemesh_mesh: x}\n    b: {beemesh_mesh: y}\n", "different meshes: x, y"),
        ("all:\n  hosts:\n    'n[1:2]': {ansible_connection: local}\n", "port 7946 on the same machine"),
        ("all:\n  hosts:\n    a: {beemesh_api_port: 7946}\n", "are equal"),
        ("all:\n  children:\n    a: {children: {b: {children: {a: {}}}}}\n  hosts: {x: }\n", "contains itself"),
        ("all:\n  hosts:\n    a: {beemesh_address: not-an-ip}\n", "not an IP address"),
        (
            "all:\n  hosts:\n    a: {beemesh_images: [{archive: no.tar, sha256: '" + "0" * 64 + "', name: x}]}\n",
            "no file",
        ),
        ("all:\n  hosts:\n    'n[3:1]':\n", "runs backwards"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    """Each with words that lead to the cure."""
    assert expected in _problems(tmp_path, text)


def test_passwords_never_show(tmp_path: Path) -> None:
    """Not in the representation that a log or an error would print."""
    nodes = _nodes(tmp_path, "all:\n  hosts:\n    a: {ansible_password: hunter22, ansible_become_pass: hunter33}\n")
    assert nodes["a"].connection.password == "hunter22"
    assert nodes["a"].connection.become_password == "hunter33"
    assert "hunter" not in repr(nodes["a"])


def test_jump_hosts_are_read() -> None:
    """Both spellings, several in a row, with user and port."""
    jumps = parse_jump("-J ann@gate:2222,inner -o ProxyJump=[fd00::1]:22")
    assert [(jump.user, jump.host, jump.port) for jump in jumps] == [
        ("ann", "gate", 2222),
        ("", "inner", 22),
        ("", "fd00::1", 22),
    ]


def test_addresses_follow_from_how_hosts_are_reached(tmp_path: Path) -> None:
    """An IP address in `ansible_host` is the node's, a name leaves it to the host, all-local means loopback."""
    remote = _nodes(tmp_path, "all:\n  hosts:\n    a: {ansible_host: 10.0.0.1}\n    b: {ansible_host: b.lan}\n")
    assert {name: node.address for name, node in remote.items()} == {"a": "10.0.0.1", "b": ""}
    local = _nodes(tmp_path, "all:\n  hosts:\n    a: {ansible_connection: local}\n")
    assert local["a"].address == "127.0.0.1"


def test_the_example_is_valid_and_documents_every_variable() -> None:
    """What users copy from works, and leaves nothing out."""
    inventory = read_inventory(ROOT / "inventory.example.yaml")
    assert len(desired_nodes(inventory, inventory.hosts)) == 8
    text = (ROOT / "inventory.example.yaml").read_text()
    assert [name for name in table() if name not in text] == []


def test_every_variable_documents_itself() -> None:
    """Words for all, and a range in them for every number."""
    for row in table().values():
        assert row.description.endswith("."), row.name
        if row.schema.get("type") == "integer":
            assert "Range:" in row.description or row.name == "ansible_port", row.name


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_kept_schemas_are_those_of_the_code(name: str) -> None:
    """Run `python -m schemas.generate` after a change of the variables or settings."""
    assert (ROOT / "schemas" / name).read_text() == text_of(name)


def test_the_example_passes_the_kept_schema() -> None:
    """Editors and other validators agree with us."""
    import json

    import jsonschema
    from ruamel.yaml import YAML

    data: Any = YAML(typ="safe", pure=True).load((ROOT / "inventory.example.yaml").read_text())
    jsonschema.Draft202012Validator(json.loads((ROOT / "schemas/inventory.schema.json").read_text())).validate(data)


def test_half_of_a_surrogate_pair_is_shown_where_it_stands(tmp_path: Path) -> None:
    """An escape can stand for what no file and no message can hold."""
    told = _problems(tmp_path, 'all:\n  hosts: {a: {}}\n  vars: {beemesh_mesh: "\\udc1d"}\n')
    assert "inventory.yaml:3:24" in told
    assert "half of a surrogate pair" in told
