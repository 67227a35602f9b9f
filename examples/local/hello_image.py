"""Builds the image `localhost/hello:1` as an archive from this host's static busybox: no registry, no podman needed.

The same busybox gives the same bytes, so the archive's digest can be named in an inventory. The image serves one page
on port 8080 (`PORT` changes it) with the pod's name, the environment variable `GREETING_TOKEN` and the file
`/etc/hello/token`, and ends in good order on SIGTERM.

By hand: `python examples/local/hello_image.py hello.tar`.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
from pathlib import Path

IMAGE = "localhost/hello:1"
"""The name under which the archive loads."""
PORT = 8080
"""Where the server listens unless the environment says `PORT`."""
BUSYBOX_PLACES = ("/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox")
APPLETS = ("cat", "hostname", "httpd", "kill", "ls", "nc", "pidof", "sh", "sleep", "wget")
"""The commands of busybox that get a name of their own in `/bin`."""

SERVER = """\
#!/bin/sh
# PID 1 of the container: serves /www, and on SIGTERM stops listening and lets running answers finish (2 s at most).
httpd -f -p "${PORT:-8080}" -h /www &
server=$!
stop() {
    kill "$server"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        pidof httpd >/dev/null || break
        sleep 0.2
    done
    exit 0
}
trap stop TERM INT
wait "$server"
"""

PAGE = """\
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo "hello from ${POD_NAME:-$(hostname)}"
echo "environment: GREETING_TOKEN=${GREETING_TOKEN:-(not set)}"
if [ -r /etc/hello/token ]; then
    echo "file: /etc/hello/token=$(cat /etc/hello/token)"
else
    echo "file: /etc/hello/token=(not there)"
fi
"""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64", "ppc64le": "ppc64le"}


class NoBusybox(RuntimeError):
    """This host has no statically linked busybox; the message says how to get one."""


def find_busybox() -> Path:
    """The host's busybox, which must need no libraries. Raises `NoBusybox`."""
    for place in map(Path, BUSYBOX_PLACES):
        if place.is_file() and b"/ld-linux" not in place.read_bytes():
            return place
    raise NoBusybox(f"no static busybox at {', '.join(BUSYBOX_PLACES)}: apt-get install busybox-static")


def _entry(archive: tarfile.TarFile, name: str, *, content: bytes = b"", mode: int = 0o644, link: str = "") -> None:
    entry = tarfile.TarInfo(name)  # owner root and time 0 are its defaults: the same bytes at every build
    entry.mode = mode
    if link:
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, link, 0o777
    elif name.endswith("/"):
        entry.type = tarfile.DIRTYPE
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _layer(busybox: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as layer:
        for folder in ("bin/", "dev/", "etc/", "etc/hello/", "proc/", "sys/", "www/", "www/cgi-bin/"):
            _entry(layer, folder, mode=0o755)
        _entry(layer, "tmp/", mode=0o1777)
        _entry(layer, "bin/busybox", content=busybox, mode=0o755)
        for applet in APPLETS:
            _entry(layer, f"bin/{applet}", link="busybox")
        _entry(layer, "bin/hello-server", content=SERVER.encode(), mode=0o755)
        _entry(layer, "etc/passwd", content=b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        _entry(layer, "etc/group", content=b"root:x:0:\nnogroup:x:65534:\n")
        _entry(layer, "www/healthz", content=b"ok\n")
        _entry(layer, "www/cgi-bin/index.cgi", content=PAGE.encode(), mode=0o755)  # httpd's answer to `/`
    return buffer.getvalue()


def _config(layer: bytes) -> bytes:
    content = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "config": {
            "Cmd": ["/bin/hello-server"],
            "Env": ["PATH=/bin"],
            "ExposedPorts": {f"{PORT}/tcp": {}},
            "StopSignal": "SIGTERM",
            "WorkingDir": "/",
        },
        "created": "1970-01-01T00:00:00Z",
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "hello_image.py"}],
        "os": "linux",
        "rootfs": {"diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"], "type": "layers"},
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def build(archive_path: Path | str, *, busybox: Path | None = None) -> str:
    """Write the image as a docker archive, which `podman load` reads; returns `sha256:…` of the archive file.

    The file appears whole or not at all. Raises `NoBusybox` where the host has none that is static.
    """
    target = Path(archive_path)
    layer = _layer((busybox or find_busybox()).read_bytes())
    config = _config(layer)
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_name = f"{hashlib.sha256(layer).hexdigest()}.tar"
    manifest = [{"Config": config_name, "RepoTags": [IMAGE], "Layers": [layer_name]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        _entry(archive, config_name, content=config)
        _entry(archive, layer_name, content=layer)
        _entry(archive, "manifest.json", content=json.dumps(manifest, sort_keys=True).encode())
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.draft")
    draft.write_bytes(buffer.getvalue())
    draft.replace(target)
    return f"sha256:{hashlib.sha256(buffer.getvalue()).hexdigest()}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: hello_image.py ARCHIVE")
    try:
        print(build(sys.argv[1]))
    except (NoBusybox, OSError) as error:
        sys.exit(f"hello image: {error}")
