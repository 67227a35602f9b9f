"""The script that plants known bugs: its places are in the code, and a hunt goes on where it was stopped."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from scripts import plant_bugs

BUGS = {bug.name: bug for bug in plant_bugs.BUGS}


def test_there_are_enough_bugs_of_different_names() -> None:
    """Twenty at least, each told apart by its name."""
    assert len(plant_bugs.BUGS) >= 20
    assert len(BUGS) == len(plant_bugs.BUGS)


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_has_its_place_in_the_code(name: str) -> None:
    """The text that it replaces is there just once, and what comes of it is still Python."""
    bug = BUGS[name]
    text = (plant_bugs.ROOT / bug.file).read_text()
    assert text.count(bug.before) == 1, f"mend the place of {name} in scripts/plant_bugs.py"
    ast.parse(text.replace(bug.before, bug.after))


def test_a_place_that_moved_is_told(tmp_path: Path) -> None:
    """With the name of the bug and of the file, before anything is hunted."""
    bug = plant_bugs.BUGS[0]
    (tmp_path / bug.file).parent.mkdir(parents=True)
    (tmp_path / bug.file).write_text("nothing of that kind")
    with pytest.raises(ValueError, match=rf"{bug.name}: its place is 0 times in {bug.file}"):
        plant_bugs.plant(bug, tmp_path)


def test_what_was_hunted_is_not_hunted_again(tmp_path: Path) -> None:
    """Of each bug the last line counts; what was found is found, and nothing runs for it."""
    state = tmp_path / "hunts.jsonl"
    found = plant_bugs.Hunt("forged-death", 7, 4, 108, 30.0, "9.00 evidence: n1 holds n2 dead")
    lines = [plant_bugs.Hunt("forged-death", seeds=100), plant_bugs.Hunt("lone-accuser", seeds=100), found]
    state.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    begun = plant_bugs.begun_hunts(state)

    assert begun == {"forged-death": found, "lone-accuser": lines[1]}
    assert plant_bugs.hunt(found, seeds=2_000, state=state) == found
    assert plant_bugs.begun_hunts(tmp_path / "not-there") == {}
