"""What the documentation says about the project, where that can be checked."""

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_every_row_of_what_can_go_wrong_names_a_test_that_exists() -> None:
    page = (PROJECT / "docs/when-things-go-wrong.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    sources = "".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))
    written = set(re.findall(r"def (test_\w+)", sources))

    assert named
    assert named <= written
