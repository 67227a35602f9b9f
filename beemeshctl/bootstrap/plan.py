"""What is to be done on a host, worked out from what was found there. Pure: nothing here talks to anybody."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from beemesh.settings import NodeSettings
from beemeshctl.bootstrap import rendering
from beemeshctl.bootstrap.facts import Facts, FileState, unit_name
from beemeshctl.bootstrap.signing import CONFIG_FILES
from beemeshctl.inventory.desired import DesiredNode, ImageArchive

SECRET_MODE = 0o600
UNIT_MODE = 0o644
PROGRAM_MODE = 0o755

ServiceAction = Literal["none", "start", "restart"]


@dataclass(frozen=True, slots=True)
class FileWrite:
    """A file to put in place."""

    path: str
    content: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What to do about the service: units to write, whether to enable, and what to tell it."""

    manager: str
    unit: str
    units: tuple[FileWrite, ...]
    enable: bool
    action: ServiceAction

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.units) or self.enable or self.action != "none"


def agent_program(node: DesiredNode) -> str:
    """The agent's program on the host."""
    return f"{node.prefix}/bin/beemesh-agent"


def image_marker(node: DesiredNode, image: ImageArchive) -> str:
    """A file on the host that says which archive an image was loaded from."""
    return f"{node.config_dir}/images/{image.sha256}"


def watched_files(node: DesiredNode) -> list[str]:
    """Every file whose state decides something."""
    units = [f"{rendering.SYSTEMD_FOLDER}/{unit_name(node)}"]
    units.append(f"{rendering.SYSTEMD_FOLDER}/{rendering.mount_unit(node.settings['paths']['state'])}")
    config = [f"{node.config_dir}/{name}" for name in CONFIG_FILES]
    return [*config, *units, agent_program(node), *(image_marker(node, image) for image in node.images)]


def writes(wanted: Mapping[str, bytes], found: Mapping[str, FileState | None], mode: int) -> tuple[FileWrite, ...]:
    """The files whose content or mode is not as wanted, in the given order."""
    return tuple(
        FileWrite(path, content, mode) for path, content in wanted.items() if not _is_as(found.get(path), content, mode)
    )


def config_writes(node: DesiredNode, files: Mapping[str, bytes], facts: Facts) -> tuple[FileWrite, ...]:
    """The config files to write. The seed is for a node's first start: one that has any is left alone.

    `node.yaml` comes last: with its signature in place first, a run that is cut off in between leaves a configuration
    that the agent refuses rather than one that is half new.
    """
    order = [*(name for name in CONFIG_FILES if name != "node.yaml"), "node.yaml"]
    wanted = {f"{node.config_dir}/{name}": files[name] for name in order if name in files}
    return writes(wanted, facts.files, SECRET_MODE)


def image_loads(node: DesiredNode, facts: Facts, present: Sequence[str]) -> tuple[ImageArchive, ...]:
    """The images to bring along: those never loaded from this very archive, or gone since."""
    return tuple(
        image
        for image in node.images
        if facts.files.get(image_marker(node, image)) is None or image.name not in present
    )


def service_plan(node: DesiredNode, settings: NodeSettings, facts: Facts, *, anything_changed: bool) -> ServicePlan:
    """How to get the service to run what is installed now."""
    manager, unit = settings.service.manager, unit_name(node)
    if manager == "supervised":
        action: ServiceAction = "start" if not facts.supervised else "restart" if anything_changed else "none"
        return ServicePlan(manager, unit, (), enable=False, action=action)
    units = writes(rendering.systemd_units(settings, unit), facts.files, UNIT_MODE)
    restart = anything_changed or bool(units) or facts.service.reload
    action = "start" if not facts.service.active else "restart" if restart else "none"
    return ServicePlan(manager, unit, units, enable=not facts.service.enabled, action=action)


def _is_as(found: FileState | None, content: bytes, mode: int) -> bool:
    return found is not None and found.mode == mode and found.sha256 == hashlib.sha256(content).hexdigest()
