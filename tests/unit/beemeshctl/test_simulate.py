"""`beemeshctl simulate`, as a person runs it: what it tells, what it draws, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from beemeshctl import main
from simulator.scenario import parse
from simulator.stage import Stage

INVENTORY = """\
all:
  vars: {beemesh_mesh: shop}
  children:
    servers:
      hosts:
        berlin-[1:2]: {beemesh_site: berlin}
        paris-[1:2]: {beemesh_site: paris}
    laptops:
      hosts:
        lap: {beemesh_keeper: false}
"""
MANIFEST = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: "localhost/hello:1"
          resources: {requests: {cpu: 100m, memory: MEMORY}}
"""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    exit_code: int
    output: str
    errors: str


Simulate = Callable[..., Result]


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Simulate:
    """Runs the command on an inventory of five machines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    (tmp_path / "web.yaml").write_text(MANIFEST.replace("MEMORY", "64Mi"))
    (tmp_path / "huge.yaml").write_text(MANIFEST.replace("MEMORY", "3Gi"))

    def run(*words: str) -> Result:
        watch = [] if "--scenario" in words else ["--watch", "40s"]
        exit_code = main.run(["simulate", "-i", "inventory.yaml", *watch, *words])
        return Result(exit_code, *capsys.readouterr())

    return run


def test_the_loss_of_a_site_is_told_from_fault_to_recovery(simulate: Simulate, tmp_path: Path) -> None:
    """Who dies, who notices, what moves, and how long it took; drawn as well; exit code 0."""
    result = simulate("--manifests", "web.yaml", "--kill", "site=berlin", "--plot", "after.svg")

    assert result.exit_code == 0, result.errors
    assert "> kill site=berlin" in result.output
    assert "held dead by all 3 others" in result.output
    assert "noticed by all others" in result.output
    (row,) = [line.split() for line in result.output.splitlines() if line.startswith("deployment/default/web")]
    assert row[1:3] == ["3", "3"]
    assert row[4] == "3"
    assert ElementTree.parse(tmp_path / "after.svg").getroot().tag.endswith("svg")


def test_what_has_no_room_left_is_told_with_the_reason(simulate: Simulate) -> None:
    """Replicas of 3 GiB on machines of 5 GiB: after two of five are gone some stay away, and the exit code is 1."""
    result = simulate("--manifests", "huge.yaml", "--memory", "5Gi", "--kill", "site=berlin,lap")

    assert result.exit_code == 1
    assert "for good" in result.output
    assert "deployment/default/web stays short: no node takes it:" in result.output
    assert "needs 3136 MiB of memory" in result.output


def test_every_workload_of_the_manifests_is_tried(simulate: Simulate, tmp_path: Path) -> None:
    """Also where two bear one name, in two namespaces or of two kinds."""
    web = MANIFEST.replace("MEMORY", "64Mi")
    daemon = web.replace("Deployment", "DaemonSet").replace("  replicas: 3\n", "")
    (tmp_path / "all.yaml").write_text(
        "---\n".join((web, web.replace("name: web}", "name: web, namespace: lab}", 1), daemon))
    )

    result = simulate("--manifests", "all.yaml", "--watch", "5s", "-o", "json")

    works = {each["workload_id"]: each["running"] for each in json.loads(result.output)["workloads"]}
    assert works == {"deployment/default/web": 3, "deployment/lab/web": 3, "daemonset/default/web": 5}


def test_what_a_policy_forbids_is_refused_as_it_would_be(simulate: Simulate, tmp_path: Path) -> None:
    """Quotas and priority classes among the manifests stand in the simulated mesh; what they refuse is exit code 1."""
    quota = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: few}\nspec: {hard: {pods: '2'}}\n---\n"
    high = "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1000\n---\n"
    web = MANIFEST.replace("MEMORY", "64Mi")
    urgent = web.replace("      containers:", "      priorityClassName: high\n      containers:")
    for name, text in {"few": quota + web, "urgent": high + urgent, "classless": urgent}.items():
        (tmp_path / f"{name}.yaml").write_text(text)

    few = simulate("--manifests", "few.yaml", "--watch", "5s")
    urgent_one = simulate("--manifests", "urgent.yaml", "--watch", "5s")
    classless = simulate("--manifests", "classless.yaml", "--watch", "5s")

    assert few.exit_code == 1
    assert "deployment/default/web was refused: exceeded quota: few, requested: pods=3" in few.output
    assert urgent_one.exit_code == 0
    assert "deployment/web 3 of 3 run" in urgent_one.output
    assert (classless.exit_code, classless.output) == (2, "")
    assert "there is no PriorityClass 'high'" in classless.errors


def test_scripts_get_json_that_repeats(simulate: Simulate) -> None:
    """The same seed gives the same document, another seed another one."""
    documents = [json.loads(simulate("--kill", "30%", "--seed", seed, "-o", "json").output) for seed in ("1", "1", "2")]

    assert documents[0] == documents[1] != documents[2]
    assert documents[0]["recovered"] is True
    assert documents[0]["workloads"][0]["wanted"] == 5


def test_a_scenario_of_ones_own_is_played_on_the_inventory(simulate: Simulate, tmp_path: Path) -> None:
    """Its selectors mean the inventory's groups and sites; a broken expectation is exit code 1."""
    (tmp_path / "monday.scenario").write_text(
        "at 2s apply web replicas=2\nat 10s kill servers for 20s\n"
        "at 9s expect alive 5\nat 9s expect alive 3\nat 60s expect alive 5\nend 60s\n"
    )

    result = simulate("--scenario", "monday.scenario")

    assert result.exit_code == 1
    assert "     9.0  as expected: alive 5" in result.output
    assert "9.0 s: expect alive 3: lap sees 5" in result.output
    assert "    60.0  as expected: alive 5" in result.output


def test_nodes_of_a_scenario_are_used_with_a_word(simulate: Simulate, tmp_path: Path) -> None:
    """They take the place of the inventory's machines, also where traffic is counted for each agent."""
    text = "nodes a b\nat 1s apply web\nend 5s\n"
    (tmp_path / "usual.scenario").write_text(text.replace("nodes a b\n", ""))
    (tmp_path / "own.scenario").write_text(text)

    usual, own = simulate("--scenario", "usual.scenario"), simulate("--scenario", "own.scenario")

    assert "warning: own.scenario has 2 nodes of its own; inventory.yaml is not used" in own.errors
    assert "warning" not in usual.errors
    last = Stage(parse(text)).run().samples[-1]
    rates = f"{last.sent_bytes / 5 / 2 / 1024:.1f} KiB/s in {last.sent / 5 / 2:.1f} messages/s"
    assert f"each agent sent {rates} on average" in own.output


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("--kill", "site=rome"), "there are berlin, default, paris"),
        (("--kill", ""), "says nothing about who is meant"),
        (("--partition", "berlin-1/nobody"), "no machine is meant by 'nobody'"),
        (("--loss", "30"), "'30' is no share"),
        (("--plot", "after.png"), "ends neither in .svg nor in .html"),
        (("--plot", "nowhere/after.svg"), "is no directory"),
        (("--memory", "8Gb"), "--memory 8Gb: not a quantity"),
        (("--manifests", "none.yaml"), "there is no such file"),
        (("--scenario", "none.scenario"), "none.scenario cannot be read"),
        (("--watch", "long"), "'long' is no duration"),
        *((("--cpu", cpu), f"--cpu {cpu}: no machine has that") for cpu in ("nan", "inf", "1e+300", "-1", "0")),
        (("--memory", "99999999999999Ei"), "--memory 99999999999999Ei: it is more than there is"),
        (("--memory", "-8Gi"), "--memory -8Gi: no machine has that"),
        (("--disk", "-1Gi"), "--disk -1Gi: no machine has that"),
        (("--for", "10s"), "--for says how long a fault lasts"),
        (("--partition", "all"), "parts nobody"),
        (("--partition", "paris-1/paris-1"), "'paris-1' is on both sides"),
        (("--partition", "site=paris/paris-*"), "is on both sides"),
        (("--partition", "60%/50%"), "are more than there are"),
        (("--partition", "100%/site=nowhere"), "no machine is meant by"),
        (("--partition", "30%/all"), "parts nobody"),
        (("--scenario", "own.scenario", "--seed", "3"), "leave out --seed"),
        (("--scenario", "own.scenario", "--loss", "5%", "--for", "9s"), "leave out --loss, --for"),
        (("--scenario", "own.scenario", "--watch", "2m", "--delay", "1ms"), "leave out --watch, --delay"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(
    simulate: Simulate, words: tuple[str, ...], wrong: str
) -> None:
    """One clear line, exit code 2."""
    result = simulate(*words)

    assert result.exit_code == 2
    assert wrong in result.errors
    assert not result.output
