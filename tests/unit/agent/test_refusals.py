"""What an agent advises against a refusal: something that helps."""

from __future__ import annotations

import pytest

from agent.api.records import hint_for
from beemesh.workloads.policies import Quota, priority_objection, quota_objection
from beemesh.workloads.record import Qos, Workload
from tests.unit.scheduling.samples import workload
from tests.unit.scheduling.test_daemons import daemon_set


def against_quota(wanted: Workload, **hard: int) -> str:
    """Why a quota forbids it; `_` in names stands for a dot."""
    quota = Quota("default", "team", {name.replace("_", "."): amount for name, amount in hard.items()})
    return quota_objection(wanted, workload(replicas=4), [], [quota])


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (against_quota(workload(replicas=7), pods=6), "scale to fewer replicas"),
        (against_quota(workload(replicas=5), limits_memory=6), "give every container these"),
        (quota_objection(daemon_set(), None, [], [Quota("default", "team", {})]), "another namespace"),
        (priority_objection(workload(qos=Qos(priority_class="hihg")), []), "apply the class first"),
    ],
)
def test_what_applying_again_does_not_mend_has_other_advice(reason: str, words: str) -> None:
    """A quota that is full is full the next time too: the way out is named, and that nothing was changed."""
    assert reason
    assert words in hint_for(reason)
    assert "nothing was changed" in hint_for(reason)
    assert "apply again" not in hint_for(reason)


def test_what_may_come_right_is_tried_again() -> None:
    """Holders that did not answer in time may answer now. Nothing is said of what was changed unless that is known."""
    assert hint_for("not all answered in time") == "apply again: nothing is done twice"
    assert hint_for("not all keepers saved their part: two: away") == "nothing was changed; apply again"


def test_what_is_saved_is_not_called_unchanged() -> None:
    """A record that has no second copy yet stands, and may take effect."""
    hint = hint_for("saved here, but on no second node: two did not save it")
    assert "nothing was changed" not in hint
    assert "this agent keeps it" in hint
    assert "apply again" in hint
