"""The errors that people see, by whose fault it is.

Every message is lower-case and names the thing, the place, what was expected and what to do next. The class decides the
exit code of the command line (DESIGN section 10) and the HTTP status of an agent's answer, so neither has to guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What `beemeshctl` tells the shell."""

    DONE = 0
    FAILED = 1
    INVALID_INPUT = 2
    NOT_ALLOWED = 3
    UNREACHABLE = 4


class BeemeshError(Exception):
    """An error with an explanation for a person; never shown with a traceback."""

    exit_code: ExitCode = ExitCode.FAILED
    http_status: int = 500

    def __init__(self, message: str, *, hint: str = "") -> None:
        """`message` says what is wrong and where; `hint` says what to do next."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file a person wrote. Lines and columns count from 1; 0 means unknown."""

    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        text = f"{place}: {self.message}" if place else self.message
        return f"{text} ({self.hint})" if self.hint else text


class InvalidInput(BeemeshError):
    """What a person or a client handed in cannot be right; nothing was changed."""

    exit_code = ExitCode.INVALID_INPUT
    http_status = 422

    def __init__(self, message: str, *, hint: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {problem}" for problem in self.problems)])


class KeepersFailed(InvalidInput):
    """Some keepers did not save their part of what was handed in; nothing was changed. Others may."""

    def __init__(self, message: str, keepers: tuple[str, ...], *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.keepers = keepers


class NotAllowed(BeemeshError):
    """The identity is known, or claims to be, and may not do this."""

    exit_code = ExitCode.NOT_ALLOWED
    http_status = 403


class NotFound(BeemeshError):
    """The named thing does not exist here."""

    exit_code = ExitCode.FAILED
    http_status = 404


class Conflict(BeemeshError):
    """Somebody else changed the same thing first; nothing was changed by this request."""

    exit_code = ExitCode.FAILED
    http_status = 409


class Unreachable(BeemeshError):
    """The other side did not answer in time, or at all."""

    exit_code = ExitCode.UNREACHABLE
    http_status = 504


class Unavailable(BeemeshError):
    """The other side answered that it cannot do this at the moment; trying again may help."""

    exit_code = ExitCode.FAILED
    http_status = 503


class Untrusted(BeemeshError):
    """A signature, certificate or commitment does not hold: the other side's fault, never ours to ignore."""

    exit_code = ExitCode.NOT_ALLOWED
    http_status = 403


class Forged(Untrusted):
    """The signature of a statement is none of its signer: who checks what it passes on never passes that on."""
