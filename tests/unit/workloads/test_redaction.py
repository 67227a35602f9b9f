"""What an engine says about a pod tells members nothing that was sealed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beemesh.workloads.podspec import Template
from beemesh.workloads.redaction import ENGINE_WORDS, redact


def template(**parts: object) -> Template:
    """A template with one container named web of image localhost/hello:1."""
    container = {"name": "web", "image": "localhost/hello:1", **parts}
    return Template(
        kind="Deployment",
        namespace="default",
        name="hello",
        labels={},
        annotations={},
        spec={"containers": [container], "restartPolicy": "Always"},
        config_maps={"motto": {"text": b"first line\nsecond-line"}},
        secrets={"hello": {"token": b"honey-is-sweet"}},
        publish_auto=False,
        state="memory",
    )


def test_a_command_is_hidden_and_its_fault_is_not() -> None:
    """The reader learns what went wrong; the operator knows the command anyway."""
    text = "pod p: cannot run '/usr/bin/secretd': executable file not found in $PATH"
    told = redact(text, template(command=["/usr/bin/secretd", "--serve"]))
    assert told == "pod p: cannot run '***': executable file not found in $PATH"


def test_names_and_images_stay() -> None:
    """Members see them in the record."""
    text = "container web of hello: localhost/hello:1 is not in the store"
    assert redact(text, template(args=["localhost/hello:1", "hello"])) == text


def test_lines_of_files_and_secrets_are_hidden() -> None:
    """An engine may quote one line of a file, or one word of it."""
    told = redact("bad entry: second-line near honey-is-sweet", template())
    assert told == "bad entry: *** near ***"


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=4, max_size=30).filter(
    lambda text: text not in "localhost/hello:1 default Always" and text not in ENGINE_WORDS  # told on purpose
)


@given(value=TEXTS, before=st.sampled_from(["", 'exec: "', "env X="]), after=st.sampled_from(["", '": no', " x"]))
def test_no_value_passes(value: str, before: str, after: str) -> None:
    """Wherever an engine quotes a variable or an argument, it is gone."""
    for parts in ({"env": [{"name": "X", "value": value}]}, {"args": [value]}, {"workingDir": value}):
        told = redact(f"{before}{value}{after}", template(**parts))
        assert value not in told.replace("***", "")
