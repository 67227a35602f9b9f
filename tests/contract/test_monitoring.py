"""The dashboard and the alert rules that are shipped, against the agents' own pages and a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.gauges import refresh
from agent.metrics import Metrics
from bench.bare_mesh import ROOT, BareMesh, eventually, free_ports
from simulator.world import World

MONITORING = ROOT / "examples" / "monitoring"
NEEDS = "needs {}: `make test` installs the package prometheus where there is apt"
SIZE = 3
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: seen}\nspec:\n  containers: [{name: web, image: 'a:1'}]\n"

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason=NEEDS.format("promtool"))
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason=NEEDS.format("prometheus"))


def page() -> str:
    """The page of an agent in a mesh that just came up."""
    world = World(SIZE)
    world.start_all()
    world.run_for(5)
    metrics = Metrics()
    metrics.before_reading(lambda: refresh(metrics, world.node(0)))
    return metrics.text().decode()


def queries() -> list[str]:
    """Every expression of the dashboard and of the alert rules."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return found + [rule["expr"] for group in groups for rule in group["rules"]]


def test_every_metric_that_is_drawn_or_alerted_on_exists() -> None:
    """Each name in the dashboard and the rules stands on an agent's page, with its type, before anything happened."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page(), re.MULTILINE))
    known = {name for name, kind in types.items() if kind in ("gauge", "counter")}
    known |= {f"{name}_{part}" for name, kind in types.items() if kind == "histogram" for part in ("bucket", "count")}
    used = {name for query in queries() for name in re.findall(r"\bbeemesh_\w+", query)}
    assert len(used) > 15
    assert used <= known


def test_what_may_happen_once_is_drawn_and_stands_at_zero_before() -> None:
    """A series that begins with its first count has not increased by it: doubled replicas, what they were stopped for
    and preemptions are there from the start."""
    shown = page()
    drawn = " ".join(queries())
    for name, series in {
        "beemesh_scheduler_duplicates_total": "",
        "beemesh_scheduler_preemptions_total": "",
        "beemesh_scheduler_reconcile_kills_total": '{reason="duplicate"}',
        "beemesh_scheduler_stops_ordered_total": '{reason="duplicate"}',
    }.items():
        assert f"\n{name}{series} 0.0\n" in shown
        assert f"increase({name}{{" in drawn


@needs_promtool
def test_prometheus_finds_no_fault_with_the_page_and_the_rules() -> None:
    """`promtool check metrics` and `check rules` are content."""
    checks = (
        (["check", "metrics"], page()),
        (["check", "rules", str(MONITORING / "alerts.yml")], ""),
        (["check", "config", str(MONITORING / "prometheus.yml")], ""),
    )
    for words, given in checks:
        done = subprocess.run(
            ["promtool", *words], input=given, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A real one that scrapes a mesh by the shipped configuration, every second."""

    def __init__(self, folder: Path, mesh: BareMesh) -> None:
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        targets = [listen["metrics"] for listen in mesh.listen.values()]
        config["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
        folder.mkdir()
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(MONITORING / "alerts.yml", folder)
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}/api/v1"
        words = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        with (folder / "log").open("wb") as log:
            command = ["prometheus", *words, f"--web.listen-address=127.0.0.1:{port}"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer; None while there is none."""
        try:
            address = f"{self.url}/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, as it stood when it was last looked at (`health` is unknown before)."""
        return [rule for group in (self.get("rules") or {"groups": []})["groups"] for rule in group["rules"]]

    def value(self, query: str) -> float:
        """The one value of a query; 0 without one."""
        found = (self.get("query", query=query) or {"result": []})["result"]
        return float(found[0]["value"][1]) if found else 0.0


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareMesh]:
    """Three agents with mock engines and one pod."""
    made = BareMesh(tmp_path_factory.mktemp("mesh"), SIZE, with_metrics=True)
    try:
        made.start()
        assert eventually(lambda: all(map(made.is_up, made.names)), 30)
        command = [sys.executable, "-m", "beemeshctl.main", "apply", "-", "--wait", "--timeout", "60s"]
        applied = subprocess.run(
            command, input=POD, env=made.environment, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
        )
        assert applied.returncode == 0, applied.stderr
        yield made
    finally:
        for process in made.processes.values():
            process.terminate()
        for process in made.processes.values():
            process.wait(20)


@needs_prometheus
@pytest.mark.timeout(180)
def test_a_real_prometheus_scrapes_agents_and_answers_the_dashboard(mesh: BareMesh, tmp_path: Path) -> None:
    """All targets are up, what happened is counted, every panel's and rule's query is answered, no rule is at fault."""
    prometheus = Prometheus(tmp_path / "prometheus", mesh)
    try:
        assert eventually(lambda: prometheus.value("sum(up)") == SIZE, 40, 0.5), (
            tmp_path / "prometheus/log"
        ).read_text()
        assert eventually(lambda: prometheus.value("sum(beemesh_schedule_latency_seconds_count)") >= 1, 20, 0.5)
        assert prometheus.value('sum(beemesh_pods{state="ready"})') == 1
        assert prometheus.value('max(beemesh_members{state="alive"})') == SIZE
        assert prometheus.value("sum(beemesh_scheduler_tasks_seen_total)") >= 1
        for query in queries():
            assert prometheus.get("query", query=query.replace("$__rate_interval", "1m")) is not None, query
        assert eventually(lambda: {rule["health"] for rule in prometheus.rules()} == {"ok"}, 20, 0.5), (
            prometheus.rules()
        )
        assert [rule["name"] for rule in prometheus.rules() if rule["state"] == "firing"] == []
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(20)
