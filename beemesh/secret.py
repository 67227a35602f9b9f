"""Values that must not be shown: they print, format and represent themselves as `***`.

A wrapper is no encryption. It keeps a Secret out of logs, tracebacks and error messages by accident-proofing every
ordinary way to turn an object into text; `reveal()` is the one deliberate way, easy to search for.
"""

from __future__ import annotations

import hmac
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T", bytes, str)

HIDDEN = "***"


class Secret(Generic[T]):
    """A value that is never shown by accident. Cannot be pickled, hashed or ordered."""

    __slots__ = ("_value",)
    _value: T
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value itself, for the one place that needs it."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret) or type(other._value) is not type(self._value):
            return NotImplemented
        return hmac.compare_digest(_as_bytes(self._value), _as_bytes(other._value))

    def __repr__(self) -> str:
        return HIDDEN

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: hand over its sealed form")


class SecretBytes(Secret[bytes]):
    """Secret bytes, such as the content of a file from a Secret object."""

    __slots__ = ()


class SecretText(Secret[str]):
    """Secret text, such as the value of an environment variable."""

    __slots__ = ()


def _as_bytes(value: bytes | str) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
