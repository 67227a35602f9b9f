"""A secret is not shown by accident."""

from __future__ import annotations

import copy

import pytest

from beemesh.secret import SecretBytes, SecretText


def test_every_way_to_text_hides_the_value() -> None:
    """repr, str, format and containers of secrets show `***`."""
    text, data = SecretText("hush"), SecretBytes(b"hush")
    for shown in (repr(text), str(text), f"{text:>20}", f"{data!r}", str([text, data]), str({"k": data})):
        assert "hush" not in shown
        assert "***" in shown
    assert (text.reveal(), data.reveal(), len(text)) == ("hush", b"hush", 4)


def test_secrets_compare_but_cannot_be_kept_by_accident() -> None:
    """Equal values are equal, kinds differ, and neither hashing nor serialising works."""
    assert SecretText("a") == SecretText("a")
    assert SecretText("a") != SecretText("b")
    assert SecretText("a") != SecretBytes(b"a")
    assert SecretText("a") != "a"
    with pytest.raises(TypeError):
        hash(SecretText("a"))
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(SecretBytes(b"a"))
