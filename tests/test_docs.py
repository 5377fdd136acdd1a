"""The pages that are made from the code are fresh, and those that name places name all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dstack_engine.home import Home
from dstack_engine.reconcilers.containers import HOME_LABEL
from scripts import states

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_states_is_what_the_decisions_say() -> None:
    assert (DOCS / "states.md").read_text() == states.page(), "run: python scripts/states.py"


def test_every_arrow_begins_and_ends_at_a_status_that_is_explained() -> None:
    text = (DOCS / "states.md").read_text()
    explained = set(re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE))
    arrows = re.findall(r"^    (\S+) --> ([^:\s]+)", text, re.MULTILINE)
    assert len(arrows) > 30
    assert {end for arrow in arrows for end in arrow} - {"[*]"} <= explained


def test_the_page_of_places_names_every_place_in_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    page = (DOCS / "uninstall.md").read_text()
    known = (getattr(home, name) for name in vars(Home) if isinstance(vars(Home)[name], property))
    places = [place for place in known if isinstance(place, Path)]
    assert len(places) > 8
    for place in places:
        assert f"`{place.name}" in page, place.name
    assert HOME_LABEL in page


@pytest.mark.slow
def test_the_page_of_places_names_all_that_an_engine_makes(home: Path) -> None:
    page = (DOCS / "uninstall.md").read_text()
    from dstack_engine.launcher import connect

    with connect() as client:
        made = {path.name for path in home.iterdir()}
        client.stop_engine()
    assert "engine.json" in made
    for name in made:
        bare = name.removesuffix("-wal").removesuffix("-shm")
        assert f"`{bare}" in page, name
