"""Image archives are checked before they are believed, and unpacked nowhere but where they should be."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from agent.runtime.archive import build, check_digest, digest_of, look_into, unpack
from agent.runtime.contract import FailureReason, RuntimeFailure
from agent.runtime.images import candidates
from agent.runtime.rootfs import RootfsStore


def archive_of(path: Path, *layers: list[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]]) -> Path:
    """A docker-archive with these entries in its layers."""
    blobs = {}
    for number, entries in enumerate(layers):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as layer:
            for entry in entries:
                info, content = entry if isinstance(entry, tuple) else (entry, b"")
                info.size = len(content)
                layer.addfile(info, io.BytesIO(content))
        blobs[f"{number}.tar"] = buffer.getvalue()
    manifest = [{"Config": "c.json", "RepoTags": ["localhost/x:1"], "Layers": list(blobs)}]
    blobs |= {"c.json": b'{"config": {"Cmd": ["/a"]}}', "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(path, "w") as archive:
        for name, content in blobs.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """An entry of a layer."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755
    return info


def test_an_archive_that_was_built_is_read_again(tmp_path: Path) -> None:
    """Name, id and configuration come back; the same input gives the same bytes."""
    path = tmp_path / "a.tar"
    image_id = build(path, name="localhost/a:1", files={"bin/a": b"#!"}, config={"Cmd": ["/bin/a"]})
    image = look_into(path)
    assert (image.image_id, image.names, image.config) == (image_id, ("localhost/a:1",), {"Cmd": ["/bin/a"]})
    first = digest_of(path)
    build(path, name="localhost/a:1", files={"bin/a": b"#!"}, config={"Cmd": ["/bin/a"]})
    assert digest_of(path) == first == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    check_digest(path, first)
    with pytest.raises(RuntimeFailure, match="expected sha256:ff"):
        check_digest(path, "ff")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b broken"])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    """A broken file is `ImagePullFailed` with its path, never a traceback."""
    path = tmp_path / "broken.tar"
    path.write_bytes(content)
    with pytest.raises(RuntimeFailure, match=r"broken\.tar") as caught:
        look_into(path)
    assert caught.value.reason is FailureReason.IMAGE_PULL_FAILED


@pytest.mark.parametrize(
    "entries",
    [
        [(entry("../escape"), b"x")],
        [(entry("/escape"), b"x")],
        [entry("out", tarfile.SYMTYPE, "../.."), (entry("out/escape"), b"x")],
        [entry("out", tarfile.SYMTYPE, "/"), (entry("out/tmp/escape"), b"x")],
        [entry("hard", tarfile.LNKTYPE, "../../outside")],
    ],
)
def test_nothing_is_unpacked_outside_of_the_root(tmp_path: Path, entries: list[tarfile.TarInfo]) -> None:
    """Names with `..`, absolute names, and ways through links that lead outside are refused."""
    (tmp_path / "outside").write_text("precious")
    target = tmp_path / "deep" / "root"
    target.mkdir(parents=True)
    with pytest.raises(RuntimeFailure, match="outside of its root"):
        unpack(archive_of(tmp_path / "evil.tar", entries), target)
    assert not list(tmp_path.rglob("escape"))


def test_layers_lie_over_each_other(tmp_path: Path) -> None:
    """Later layers replace and white out what earlier ones brought; links and modes are kept, devices left out."""
    target = tmp_path / "root"
    target.mkdir()
    first = [(entry("a"), b"1"), (entry("b"), b"1"), (entry("d/x"), b"1"), entry("l", tarfile.SYMTYPE, "/a")]
    second = [(entry("a"), b"2"), entry(".wh.b"), entry("d/.wh..wh..opq"), entry("dev", tarfile.CHRTYPE)]
    unpack(archive_of(tmp_path / "layers.tar", first, second), target)
    assert (target / "a").read_bytes() == b"2"
    assert (target / "l").readlink() == Path("/a")
    assert (target / "a").stat().st_mode & 0o777 == 0o755
    assert not (target / "b").exists()
    assert not (target / "d" / "x").exists()
    assert not (target / "dev").exists()


@pytest.mark.asyncio
async def test_a_name_belongs_to_the_image_loaded_last(tmp_path: Path) -> None:
    """Loading another image under the same name moves the name; loading the same one again changes nothing."""
    store = RootfsStore(tmp_path / "store")
    old, new = tmp_path / "old.tar", tmp_path / "new.tar"
    build(old, name="localhost/a:1", files={"v": b"1"}, config={})
    newer = build(new, name="localhost/a:1", files={"v": b"2"}, config={})
    assert await store.load(old) == ("localhost/a:1", True)
    assert await store.load(old) == ("localhost/a:1", False)
    assert await store.load(new) == ("localhost/a:1", True)
    image = store.get("a:1")
    assert image is not None
    assert image.image_id == newer
    assert (image.root / "v").read_bytes() == b"2"


def test_short_names() -> None:
    """A short name may be a local one or Docker Hub's; a name with a registry is only itself."""
    assert candidates("hello") == ("localhost/hello:latest", "docker.io/library/hello:latest")
    assert candidates("me/hello:2") == ("docker.io/me/hello:2", "localhost/me/hello:2")
    assert candidates("r.example:5000/hello") == ("r.example:5000/hello:latest",)
    assert candidates("localhost/a@sha256:00") == ("localhost/a@sha256:00",)
