"""What a host says of itself is judged apart from asking it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from beemesh.errors import BeemeshError
from beemeshctl.bootstrap import facts as host_facts
from beemeshctl.bootstrap import plan
from beemeshctl.bootstrap.facts import Disk, Podman, Port, ServiceState, SwapArea, clock_skew_ms
from beemeshctl.bootstrap.remote import source
from beemeshctl.inventory.desired import DesiredNode
from tests.unit.bootstrap.conftest import healthy

Wish = Callable[..., DesiredNode]


def _problems(node: DesiredNode, skew_ms: int = 0, **changes: object) -> str:
    return "\n".join(host_facts.problems(node, healthy(**changes), skew_ms))


def test_a_healthy_host_has_no_problems(wish: Wish) -> None:
    """Nothing is found where nothing is wrong."""
    assert _problems(wish()) == ""
    assert list(host_facts.warnings(wish(), healthy())) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"python": (3, 9, 2)}, "Python 3.9.2 is too old, 3.11 is needed"),
        ({"implementation": "pypy"}, "no ordinary CPython"),
        ({"libc": ("unknown", 0, 0)}, "no wheels exist"),
        ({"arch": "mips"}, "no wheels exist"),
        ({"uid": 1000}, "set ansible_become: true"),
        ({"podman": Podman("", "", "")}, "apt-get install podman"),
        ({"podman": Podman("/usr/bin/podman", "3.4.4", "/usr/bin/crun")}, "podman 3.4.4 is too old, 4.3 is needed"),
        ({"podman": Podman("/usr/bin/podman", "4.3.1", "")}, "apt-get install crun"),
        ({"memory_bytes": 64 << 20}, "64 MiB of memory"),
    ],
)
def test_each_problem_says_what_to_do(wish: Wish, changes: dict[str, object], expected: str) -> None:
    """One problem, one line, one cure."""
    assert expected in _problems(wish(), **changes)


def test_a_full_disk_and_a_read_only_one_name_the_variable(wish: Wish) -> None:
    """The path that lacks room, and how to choose another."""
    disks = dict(healthy().disks)
    disks["/var/lib/beemesh"] = Disk(5 << 20, 1 << 30, True)
    disks["/etc/beemesh"] = Disk(1 << 30, 1 << 30, False)
    text = _problems(wish(), disks=disks)
    assert "/var/lib/beemesh has 5 MiB free" in text
    assert "set beemesh_data_dir" in text
    assert "/etc/beemesh cannot be written" in text


def test_a_clock_five_minutes_off_is_refused(wish: Wish) -> None:
    """Either way; half a minute is let pass."""
    assert "300 s ahead" in _problems(wish(), skew_ms=300_000)
    assert "300 s behind" in _problems(wish(), skew_ms=-300_000)
    assert _problems(wish(), skew_ms=30_000) == ""


def test_the_time_that_asking_takes_is_no_skew() -> None:
    """Only what lies outside question and answer counts."""
    assert clock_skew_ms(1_500, asked_ms=1_000, answered_ms=2_000) == 0
    assert clock_skew_ms(900, asked_ms=1_000, answered_ms=2_000) == -100
    assert clock_skew_ms(2_300, asked_ms=1_000, answered_ms=2_000) == 300


def test_a_taken_port_is_a_problem_unless_it_is_our_own_agents(wish: Wish) -> None:
    """Who holds it is told; the very agent that is set up may."""
    theirs = {"api TCP": Port(False, "Address already in use", 12, "nginx: master process")}
    assert "port 7947 (api TCP) cannot be had, taken by nginx: master process (pid 12)" in _problems(
        wish(), ports=theirs
    )
    ours = "python3 -I /opt/beemesh/current/launch.py run --config-dir /etc/beemesh"
    assert _problems(wish(), ports={"api TCP": Port(False, "in use", 12, ours)}) == ""
    other = ours.replace("/etc/beemesh", "/etc/other")
    assert "cannot be had" in _problems(wish(), ports={"api TCP": Port(False, "in use", 12, other)})


def test_plain_swap_is_warned_about_once_it_matters(wish: Wish) -> None:
    """Not where it is allowed, zram or encrypted."""
    plain = healthy(swap=(SwapArea("/dev/sda2", "plain"), SwapArea("/dev/zram0", "zram")))
    assert "/dev/sda2 is not encrypted" in next(host_facts.warnings(wish(), plain))
    assert list(host_facts.warnings(wish(beemesh_allow_plain_swap=True), plain)) == []


def test_the_supervisor_is_chosen_where_systemd_is_not(wish: Wish) -> None:
    """`auto` looks; an explicit wish that cannot be met is a problem."""
    assert host_facts.service_manager(wish(), healthy()) == "systemd"
    assert host_facts.service_manager(wish(), healthy(systemd=False)) == "supervised"
    assert "systemd does not run" in _problems(wish(beemesh_service="systemd"), systemd=False)


def test_agents_of_one_machine_share_its_failure_domain() -> None:
    """Cloned machine ids are told apart by host name, and the id itself is not shown."""
    assert healthy().machine == healthy(python=(3, 12, 0)).machine
    assert healthy().machine != healthy(hostname="other").machine
    assert "0123" not in healthy().machine


def test_the_script_answers_what_is_asked(wish: Wish, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The real script, on this machine, as a host's Python gets it."""
    node = wish(beemesh_gossip_port=1, beemesh_api_port=2, beemesh_listen_address="127.0.0.1")
    argument = host_facts.question(node, ["/etc/passwd", "/no/such/file"])
    done = subprocess.run([sys.executable, "-I", "-", argument], input=source("facts"), capture_output=True, timeout=60)
    facts = host_facts.parse(b"Welcome to the host!\n" + done.stdout)
    assert facts.python == sys.version_info[:3]
    assert facts.uid == os.geteuid()
    assert facts.files["/etc/passwd"] is not None
    assert facts.files["/no/such/file"] is None
    assert facts.target.libc in ("glibc", "musl")


def test_an_answer_that_is_none_is_explained() -> None:
    """A login shell that prints poetry is a person's mistake, no traceback."""
    with pytest.raises(BeemeshError, match="cannot be read"):
        host_facts.parse(b"command not found")


def test_the_scripts_run_on_older_pythons() -> None:
    """A host with a Python that is too old has to be able to say so: no newer syntax, nothing of ours."""
    import ast

    for name in ("facts", "unpack", "wait_ready"):
        tree = ast.parse(source(name), feature_version=(3, 7))
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(module.startswith("beemesh") for module in imported)


def _service(node: DesiredNode, *, changed: bool = False, **changes: object) -> plan.ServicePlan:
    from beemeshctl.bootstrap import rendering

    facts = healthy(**changes)
    settings = rendering.settings_of(node, manager=host_facts.service_manager(node, facts), seeds=())
    return plan.service_plan(node, settings, facts, anything_changed=changed)


def test_a_service_is_told_only_what_it_needs(wish: Wish) -> None:
    """Start what is stopped, restart what changed, leave the rest."""
    fresh = _service(wish())
    assert (fresh.action, fresh.enable, len(fresh.units)) == ("start", True, 2)
    installed = {unit.path: host_facts.FileState(_sha256(unit.content), unit.mode) for unit in fresh.units}
    running = {"files": installed, "service": ServiceState(True, True, False)}
    assert not _service(wish(), **running).changed
    assert _service(wish(), changed=True, **running).action == "restart"
    assert _service(wish(beemesh_state_size_mb=99), **running).action == "restart"
    assert _service(wish(), systemd=False, supervised=True).action == "none"
    assert _service(wish(), systemd=False, supervised=True, changed=True).action == "restart"
    assert _service(wish(), systemd=False).action == "start"


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_units_keep_pods_alive_and_state_in_memory(wish: Wish) -> None:
    """A restart of the agent touches no pod; the store is a tmpfs of the wanted size, before the agent."""
    units = {unit.path.rsplit("/", 1)[-1]: unit.content.decode() for unit in _service(wish()).units}
    assert "KillMode=process" in units["beemesh-agent.service"]
    assert "Requires=run-beemesh-state.mount" in units["beemesh-agent.service"]
    assert "LimitCORE=0" in units["beemesh-agent.service"]
    assert "Type=tmpfs" in units["run-beemesh-state.mount"]
    assert "size=512m" in units["run-beemesh-state.mount"]
    assert len(_service(wish(beemesh_state="disk")).units) == 1


def test_node_yaml_is_written_after_its_signature(wish: Wish) -> None:
    """Cut off in between, the agent refuses the pair rather than running half of it."""
    from beemeshctl.bootstrap.signing import CONFIG_FILES

    writes = plan.config_writes(wish(), dict.fromkeys(CONFIG_FILES, b"x"), healthy())
    assert writes[-1].path == "/etc/beemesh/node.yaml"
    assert {write.mode for write in writes} == {0o600}
    kept = {write.path: host_facts.FileState(_sha256(b"x"), 0o600) for write in writes}
    assert plan.config_writes(wish(), dict.fromkeys(CONFIG_FILES, b"x"), healthy(files=kept)) == ()
    loose = {path: host_facts.FileState(state.sha256, 0o644) for path, state in kept.items()}
    assert len(plan.config_writes(wish(), dict.fromkeys(CONFIG_FILES, b"x"), healthy(files=loose))) == len(writes)


def test_images_are_brought_once_and_again_when_gone(wish: Wish, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Known by archive digest and by name: a new archive under an old name counts as new."""
    archive = tmp_path_factory.mktemp("images") / "a.tar"
    archive.write_bytes(b"tar")
    node = wish(beemesh_images=[{"archive": str(archive), "sha256": "sha256:" + "a" * 64, "name": "localhost/a:1"}])
    (image,) = node.images
    loaded = {plan.image_marker(node, image): host_facts.FileState("", 0o600)}
    assert plan.image_loads(node, healthy(), ["localhost/a:1"]) == (image,)
    assert plan.image_loads(node, healthy(files=loaded), ["localhost/a:1"]) == ()
    assert plan.image_loads(node, healthy(files=loaded), []) == (image,)
    assert json.loads(host_facts.question(node, plan.watched_files(node)))["files"][-1].endswith("a" * 64)
