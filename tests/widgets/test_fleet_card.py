"""The fleet's card and its static copy, as far as Python goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dstack_engine.errors import EngineDown
from dstack_engine.records.instances import InstanceStatus
from dstack_jupyter.rendering.fleets import FleetCopy, fleets_html, fleets_text
from dstack_jupyter.widgets.fleet import FleetCard
from tests.widgets.samples import NO_DOCKER, NOON, OLD_TOOLKIT, a_fleet, a_machine
from tests.widgets.test_run_card import HandPace

LOOKING = a_machine(0, InstanceStatus.PENDING)
READY = a_machine(0)
BROKEN = a_machine(1, InstanceStatus.PROVISIONING, NO_DOCKER, OLD_TOOLKIT)


class Handle:
    """An output that notes what takes its place."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def update(self, shown: Any, *, raw: bool = False) -> None:
        self.shown.append(shown)


def test_a_fleet_is_told_machine_by_machine_with_what_mends_each() -> None:
    text = FleetCopy(a_fleet(READY, BROKEN), {"lab-0": ["train"]}).text()
    assert text.splitlines() == [
        "fleet lab  2 machines: 1 not usable, 1 ready",
        "  ◇ lab-0  ubuntu@10.0.0.5  ready",
        "      32xCPU, 128GB, 2xH100 (80GB), 900GB (disk) · runs train",
        "      ✓ ssh: answers in 12 ms",
        "      ✓ docker: Docker Engine 27.3 answers",
        "  ✗ lab-1  ubuntu@10.0.0.6  not usable",
        "      Mend what is marked ✗ (docker); it is looked into again by itself.",
        "      ✗ docker: ubuntu may not use it",
        "          fix: sudo usermod -aG docker ubuntu",
        "      ! toolkit: 1.14 is old",
        "          fix: sudo apt-get upgrade",
    ]


def test_a_machine_that_is_silent_says_since_when_and_why() -> None:
    silent = replace(READY, unreachable_since=NOON, unreachable_why="Connection timed out")
    text = FleetCopy(a_fleet(silent)).text()
    assert "does not answer" in text
    assert "Not since 2026-11-21 12:00:00 UTC: Connection timed out." in text


def test_fleets_are_a_table_with_a_row_for_each_machine() -> None:
    views = [a_fleet(READY, replace(BROKEN, blocks=4))]
    lines = [line.split() for line in fleets_text(views, {"lab-0": ["train"]}).splitlines()]
    assert lines[0] == ["FLEET", "MACHINE", "HOST", "STATE", "RESOURCES", "BLOCKS", "RUNS"]
    assert lines[1][-1] == "train"
    assert lines[2][:3] == ["lab", "lab-1", "ubuntu@10.0.0.6"]
    assert "<caption" in fleets_html(views, {})
    assert fleets_text([], {}) == "No fleets."


def test_words_of_a_machine_are_no_markup_and_nothing_a_terminal_acts_on() -> None:
    evil = replace(NO_DOCKER, text="<script>alert(1)</script>\x1b]0;x\x07", fix="<b>x</b>")
    copy = FleetCopy(a_fleet(a_machine(0, InstanceStatus.PROVISIONING, evil)))
    assert "<script" not in copy.html()
    assert "<b>x" not in copy.html()
    assert "\x1b" not in copy.text()


def test_the_card_follows_its_fleet_and_is_static_in_the_end() -> None:
    pace, handle = HandPace(), Handle()
    card = FleetCard(a_fleet(LOOKING, hosts=1), pace=pace)
    card.attach(handle)  # type: ignore[arg-type]  # it is updated like one
    assert card.fleet["sentence"] == "1 machine: 1 being looked into"
    card.update(a_fleet(BROKEN), {})
    pace.turn()
    (machine,) = card.fleet["machines"]
    assert (card.fleet["troubled"], machine["word"]) == (True, "not usable")
    assert machine["checks"][0]["fix"] == NO_DOCKER.fix
    (beside,) = handle.shown
    assert "%dstack fleet show lab" in beside["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in beside
    card.update(a_fleet(READY), {})
    card.ended()
    pace.turn()
    bundle = handle.shown[-1]
    assert set(bundle) == {"text/html", "text/plain"}
    assert "1 machine: 1 ready" in bundle["text/plain"]
    assert "fleet show" not in bundle["text/plain"]
    assert card.wait_until_frozen(0)
    assert set(card._repr_mimebundle_()[0]) == {"text/html", "text/plain"}


def test_a_wish_to_look_again_that_fails_is_told() -> None:
    card = FleetCard(a_fleet(BROKEN), pace=HandPace())
    wishes = []
    card.on_examine(lambda: wishes.append(1))
    card._examine()
    assert (wishes, card.message) == ([1], "")

    def fail() -> None:
        raise EngineDown("No engine runs.")

    card.on_examine(fail)
    card._examine()
    assert card.message == "No engine runs."
