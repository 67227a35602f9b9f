"""The test machines' image: made from the distribution's own packages, once, and cached by what it is made of.

The mirror is whatever this host's apt is configured with. Apt itself is asked for it, so every form of source list
works and nothing about it is written down.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.machines.podman import HarnessError, cache_dir, podman, run

REPOSITORY = "localhost/beemesh-testmachine"
CONTEXT = Path(__file__).parent / "context"

PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "dbus-user-session", "openssh-server", "openssh-client"),
    *("python3", "python3-venv", "ca-certificates", "sudo", "curl", "less", "busybox-static", "e2fsprogs"),
    *("iproute2", "iputils-ping", "procps", "psmisc", "iptables", "nftables", "tcpdump"),
    *("podman", "runc", "netavark", "aardvark-dns", "catatonit", "fuse-overlayfs", "uidmap"),
)
ORIGINS = {"Debian": ("debian", ("main",)), "Ubuntu": ("ubuntu", ("main", "universe"))}
"""Whose archives are used, by apt's `Origin`: the keyring's name and the components. Third parties' are not."""

BUILD_DEADLINE_S = 900.0
"""Longest that building may take: some 250 packages through a slow mirror."""
IMPORT_DEADLINE_S = 180.0
LOCK_DEADLINE_S = BUILD_DEADLINE_S + IMPORT_DEADLINE_S
"""Longest wait for another test run that is building the same image."""
UNUSED_DAYS = 14
"""Cached images of other contents are removed when nobody has used them for this long."""


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def sources() -> list[str]:
    """The host's own archive as one-line apt sources, for the release that the host runs.

    Raises `HarnessError` where apt knows no such archive.
    """
    codename = _os_release().get("VERSION_CODENAME", "")
    form = "$(ORIGIN)|$(CODENAME)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)|$(TARGET_OF)"
    targets = run(["apt-get", "indextargets", "--format", form, "Identifier: Packages"]).stdout
    lines: list[str] = []
    for target in targets.splitlines():
        origin, _, release, component, uri, kind = target.split("|")
        keyring, components = ORIGINS.get(origin, ("", ()))
        wanted = (codename, f"{codename}-updates", f"{codename}-security", f"{codename}/updates")
        if kind != "deb" or release not in wanted or component not in components:
            continue
        signed = Path(f"/usr/share/keyrings/{keyring}-archive-keyring.gpg")
        option = f"[signed-by={signed}] " if signed.exists() else ""
        lines.append(f"deb {option}{uri} {release} {component}")
    if not any(f" {codename} main" in line for line in lines):
        raise HarnessError(
            f"apt on this host knows no archive of Debian or Ubuntu for {codename or 'an unnamed release'}: "
            "run apt-get update, and look into /etc/apt/sources.list and /etc/apt/sources.list.d"
        )
    return list(dict.fromkeys(lines))


def _host_apt_options() -> list[str]:
    """The host's ways to reach its mirror (proxy, certificates, date checks), which mmdebstrap does not take over."""
    wanted = ("Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries", "Acquire::Force")
    found = run(["apt-config", "dump"]).stdout.splitlines()
    return [f"--aptopt={line.rstrip(';')}" for line in found if line.startswith(wanted) and not line.endswith(' "";')]


def content_hash() -> str:
    """What the image is made of, as 12 hex digits: the release, the packages, and every file that goes in."""
    digest = hashlib.sha256()
    parts = [_os_release().get("ID", ""), _os_release().get("VERSION_CODENAME", ""), *PACKAGES]
    parts += [f"{file.name}\0{file.read_text()}" for file in sorted(CONTEXT.iterdir())]
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:12]


@contextmanager
def _lock() -> Iterator[None]:
    with (cache_dir() / "lock").open("w") as file:
        deadline = time.monotonic() + LOCK_DEADLINE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise HarnessError(f"another build holds {file.name}: end it, then try again") from None
                time.sleep(0.5)
        yield


def _bootstrap(archive: Path) -> None:
    """Make the root file system as a tar file; nothing is left behind by an interrupted build."""
    if not run(["apt-get", "indextargets", "--format", "$(ORIGIN)", "Identifier: Packages"]).stdout.strip():
        # It also fails for a third party's archive that is out of reach; `sources` tells whether ours is there.
        run(["apt-get", "update", "--quiet"], deadline_s=BUILD_DEADLINE_S, check=False)
    draft = archive.with_suffix(".draft.tar")
    draft.unlink(missing_ok=True)
    listing = cache_dir() / "sources.list"
    listing.write_text("\n".join(sources()) + "\n")
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "locale", "doc", "info")]
    argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", "--format=tar"]
    argv += [*_host_apt_options(), '--aptopt=APT::Install-Recommends "false"', *excluded]
    argv += ["--dpkgopt=path-include=/usr/share/doc/*/copyright", f"--include={','.join(PACKAGES)}"]
    argv += [f"--customize-hook='{CONTEXT / 'customize'}' \"$1\"", "", str(draft), str(listing)]
    run(argv, deadline_s=BUILD_DEADLINE_S)
    draft.replace(archive)


def _forget_unused(keep: Path) -> None:
    for archive in cache_dir().glob("*.tar"):
        if archive != keep and archive.stat().st_mtime < time.time() - UNUSED_DAYS * 86400:
            archive.unlink(missing_ok=True)
            podman("rmi", f"{REPOSITORY}:{archive.stem}", check=False)


def ensure() -> str:
    """The image's name, after building or importing it where it is missing (1 to 3 minutes, once).

    Raises `HarnessError` with the output of whatever failed.
    """
    tag = content_hash()
    name = f"{REPOSITORY}:{tag}"
    with _lock():
        archive = cache_dir() / f"{tag}.tar"
        if archive.exists():
            archive.touch()
        if podman("images", "--quiet", name):
            return name
        if not archive.exists():
            _bootstrap(archive)
        changes = ["--change", 'CMD ["/usr/local/sbin/machine-init"]', "--change", "STOPSIGNAL SIGRTMIN+3"]
        podman("import", "--quiet", *changes, str(archive), name, deadline_s=IMPORT_DEADLINE_S)
        _forget_unused(archive)
    return name


def ssh_key() -> Path:
    """The private key that every test machine accepts; made once, kept in the cache."""
    key = cache_dir() / "id_ed25519"
    with _lock():
        if not key.exists():
            if not shutil.which("ssh-keygen"):
                raise HarnessError("ssh-keygen is missing: apt-get install openssh-client")
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test-machines", "-f", str(key)])
    return key
