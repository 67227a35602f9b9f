"""The harness keeps its promises: machines come up, run nested podman, lose power and cables, and leave no trace."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from examples.local import hello_image
from tests.machines import harness
from tests.machines.harness import Machines
from tests.machines.podman import HarnessError, podman

pytestmark = [pytest.mark.machines, pytest.mark.podman, pytest.mark.timeout(1200)]


def _reaches(machines: Machines, one: int, other: int) -> bool:
    return machines.run(one, f"ping -c 1 -W 1 {machines[other].address}", check=False).returncode == 0


def test_every_machine_is_a_machine(machines: Machines) -> None:
    """Each has systemd as PID 1, its own name and host key, python with venv, and takes a user who becomes root."""
    shown = [machines.run(number, "cat /proc/1/comm; hostname; cat /etc/machine-id").stdout for number in (1, 2, 3)]
    names = [text.splitlines()[:2] for text in shown]
    keys = {line.split()[2] for line in machines.known_hosts.read_text().splitlines()}

    assert names == [["systemd", machines[number].name] for number in (1, 2, 3)]
    assert len({text.splitlines()[2] for text in shown}) == 3, "machine ids are unique"
    assert len(keys) == 3, "host keys are unique"
    assert machines.run(1, "sudo id -u", user="keeper").stdout.strip() == "0"
    assert machines.run(1, "python3 -m venv /root/probe && rm -r /root/probe").returncode == 0


def test_a_wrong_host_key_is_refused(machines: Machines, tmp_path: Path) -> None:
    """Host keys are really verified: with another machine's key in known_hosts, ssh refuses to talk."""
    lines = machines.known_hosts.read_text().splitlines()
    wrong = tmp_path / "known_hosts"
    wrong.write_text(f"{machines[1].address} {lines[1].partition(' ')[2]}\n")
    argv = [part.replace(str(machines.known_hosts), str(wrong)) for part in machines.ssh_arguments(1)]

    refused = subprocess.run([*argv, "true"], capture_output=True, text=True, timeout=30)

    assert refused.returncode == 255
    assert "verification failed" in refused.stderr


def test_nested_podman_serves_the_hello_image(machines: Machines, tmp_path: Path) -> None:
    """A machine loads the local image and serves it, from a container store on a tmpfs that it mounts itself."""
    hello_image.build(tmp_path / "hello.tar")
    machines.copy_to(1, tmp_path / "hello.tar", "/root/hello.tar")
    machines.run(1, "mkdir -p /mnt/memory && mount -t tmpfs -o size=128m none /mnt/memory")
    machines.run(
        1,
        "cat > /root/storage.conf",
        stdin='[storage]\ndriver="overlay"\nrunroot="/mnt/memory/run"\ngraphroot="/mnt/memory/graph"\n'
        '[storage.options]\nadditionalimagestores=["/var/lib/containers/storage"]\n',
    )

    machines.run(1, "podman load -q -i /root/hello.tar")
    start = "podman run -d --name hello --hostname hello-0 -p 8080:8080 -e GREETING_TOKEN=sesame localhost/hello:1"
    machines.run(1, f"CONTAINERS_STORAGE_CONF=/root/storage.conf {start}")
    page = machines.run(2, f"curl -s --retry 20 --retry-connrefused --retry-delay 1 {machines[1].address}:8080/")
    began = time.monotonic()
    machines.run(1, "CONTAINERS_STORAGE_CONF=/root/storage.conf podman stop -t 10 hello")

    assert page.stdout.splitlines()[:2] == ["hello from hello-0", "environment: GREETING_TOKEN=sesame"]
    assert time.monotonic() - began < 8, "the server ends on SIGTERM, long before it would be killed"


def test_power_and_disks(machines: Machines) -> None:
    """A machine whose plug is pulled loses its memory, keeps its disks and its host key, and comes back."""
    machines.run(2, "echo kept > /var/lib/beemesh/disk; echo lost > /run/memory; sync")
    before = machines.known_hosts.read_text()

    machines.power_off(2, 3)
    assert not _reaches(machines, 1, 2)
    assert not _reaches(machines, 1, 3)
    machines.power_on(2, 3)

    assert machines.run(2, "cat /var/lib/beemesh/disk; ls /run/memory", check=False).stdout == "kept\n"
    assert sorted(machines.known_hosts.read_text().splitlines()) == sorted(before.splitlines())
    assert _reaches(machines, 1, 2)
    assert _reaches(machines, 1, 3)


def test_a_cut_is_between_two_and_survives_a_restart(machines: Machines) -> None:
    """A cut stops two machines from reaching each other, nobody else; it holds across a power cycle until it heals."""
    machines.cut(1, 3)
    assert not _reaches(machines, 1, 3)
    assert not _reaches(machines, 3, 1)
    assert _reaches(machines, 1, 2)
    assert _reaches(machines, 3, 2)

    machines.power_off(3)
    machines.power_on(3)
    assert not _reaches(machines, 3, 1)

    machines.heal(1, 3)
    assert _reaches(machines, 1, 3)
    assert _reaches(machines, 3, 1)


def test_an_inventory_names_every_machine(machines: Machines, tmp_path: Path) -> None:
    """The inventory for bootstrap has each machine's address and the key that it accepts."""
    written = json.loads(machines.inventory(tmp_path / "inventory.yaml", beemesh_site="lab").read_text())["all"]

    assert {host["ansible_host"] for host in written["hosts"].values()} == {each.address for each in machines.machines}
    assert written["vars"]["beemesh_site"] == "lab"
    assert Path(written["vars"]["ansible_ssh_private_key_file"]).is_file()


def test_what_was_made_is_gone_and_nothing_else() -> None:
    """Leaving the block removes containers, volumes, network and files of this run, and leaves a bystander alone."""
    podman("volume", "create", "bm-bystander")
    try:
        with Machines(1) as up:
            machine, folder = up[1], up.known_hosts.parent
            assert machine.name in podman("ps", "--format", "{{.Names}}")
        left = [podman("ps", "--all", "--format", "{{.Names}}"), podman("volume", "ls", "--quiet")]
        left.append(podman("network", "ls", "--format", "{{.Name}}"))

        assert up.prefix not in "\n".join(left)
        assert not folder.exists()
        assert "bm-bystander" in left[1]
    finally:
        podman("volume", "rm", "bm-bystander")


def test_orphans_of_a_killed_run_are_swept() -> None:
    """What a killed test run left behind is removed by the next one; what a living process owns is not."""
    gone = [f"{harness.LABEL}=bmorphan", f"{harness.OWNER_LABEL}=999999999:1"]
    living = [f"{harness.LABEL}=bmliving", f"{harness.OWNER_LABEL}={harness.owner_name()}"]
    for name, labels in {"bmorphan-1-beemesh": gone, "bmliving-1-beemesh": living}.items():
        podman("volume", "create", *[part for label in labels for part in ("--label", label)], name)

    harness.remove_orphans()
    left = podman("volume", "ls", "--quiet").split()
    harness.remove_labelled("bmliving")

    assert "bmorphan-1-beemesh" not in left
    assert "bmliving-1-beemesh" in left


def test_a_failed_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a machine does not come up in time the error says which, and everything made so far is removed."""
    monkeypatch.setattr(harness, "READY_DEADLINE_S", 0.0)

    with pytest.raises(HarnessError, match="bmfails-1"), Machines(1, prefix="bmfails"):
        raise AssertionError("never reached")

    assert "bmfails" not in podman("ps", "--all", "--format", "{{.Names}}")
    assert "bmfails" not in podman("volume", "ls", "--quiet")
