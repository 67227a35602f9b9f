"""The local image: the same bytes every time, whole, and in the form that podman loads."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from examples.local import hello_image


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    """Something that passes for a static busybox: the image's form does not depend on what is in it."""
    program = tmp_path / "busybox"
    program.write_bytes(b"\x7fELF static")
    return program


def test_the_same_busybox_gives_the_same_bytes(busybox: Path, tmp_path: Path) -> None:
    """Two builds give the same file and the digest of that file; another busybox gives another."""
    first = hello_image.build(tmp_path / "one" / "hello.tar", busybox=busybox)
    second = hello_image.build(tmp_path / "two" / "hello.tar", busybox=busybox)
    busybox.write_bytes(b"\x7fELF newer")
    third = hello_image.build(tmp_path / "three.tar", busybox=busybox)

    assert first == second != third
    assert first == "sha256:" + hashlib.sha256((tmp_path / "one" / "hello.tar").read_bytes()).hexdigest()


def test_the_archive_is_what_its_manifest_says(busybox: Path, tmp_path: Path) -> None:
    """Name, configuration and layer of the manifest are in the archive, and the layer has the digest it claims."""
    hello_image.build(tmp_path / "hello.tar", busybox=busybox)
    with tarfile.open(tmp_path / "hello.tar") as archive:
        content = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    [manifest] = json.loads(content["manifest.json"])
    config = json.loads(content[manifest["Config"]])
    [layer] = manifest["Layers"]

    assert manifest["RepoTags"] == ["localhost/hello:1"]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(content[layer]).hexdigest()]
    assert config["config"]["Cmd"] == ["/bin/hello-server"]
    assert config["config"]["StopSignal"] == "SIGTERM"


def test_a_linked_busybox_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A busybox that needs libraries would not start in an empty image: the error says what to install."""
    linked = tmp_path / "linked"
    linked.write_bytes(b"\x7fELF ... /lib64/ld-linux-x86-64.so.2 ...")
    monkeypatch.setattr(hello_image, "BUSYBOX_PLACES", (str(linked), str(tmp_path / "absent")))

    with pytest.raises(hello_image.NoBusybox, match="apt-get install busybox-static"):
        hello_image.find_busybox()
