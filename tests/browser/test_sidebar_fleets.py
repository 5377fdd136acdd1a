"""Fleets in the sidebar and in cells: added, looked into, mended, used, let go."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dstack_engine.home import Home
from dstack_engine.launcher import connect
from tests.browser.axe import serious_findings
from tests.browser.journeys import LOAD, picture, saved_outputs, wait_until
from tests.browser.lab import LabServer
from tests.browser.sidebar import Sidebar, confirm
from tests.hosts.bed import Bed

pytestmark = [pytest.mark.browser, pytest.mark.slow]

#: On ports of this computer where nothing listens.
BROKEN = (
    "%%dstack fleet\nname: lab\nssh_config: {user: ann, port: 1, hosts: [127.0.0.1, 127.0.0.2]}"
)
#: A first look waits for a machine that starts, before it says that there is none.
PATIENCE = 90_000


def test_what_is_to_be_mended_is_told_in_the_card_and_in_the_sidebar(
    lab: LabServer, page: Page, home: Path
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    notebook = lab.notebook(page, "fleet.ipynb", [LOAD, BROKEN])
    sidebar = Sidebar(page).open()
    notebook.run(0)
    output = notebook.run(1)
    card = output.get_by_role("group", name="Fleet lab")
    expect(card).to_contain_text("2 machines: 2 not usable", timeout=PATIENCE)
    expect(card.get_by_role("list", name="Checks of lab-0")).to_contain_text("refuses connections")
    fleet = sidebar.node.get_by_role("list", name="Fleet lab")
    machine = fleet.get_by_role("listitem", name="lab-1", exact=True)
    expect(machine).to_contain_text("not usable")
    expect(machine).to_contain_text("ann@127.0.0.2:1")
    checks = machine.get_by_role("list", name="Checks of lab-1")
    expect(checks).to_contain_text("✗ ssh: 127.0.0.2 refuses connections")
    checks.get_by_role("button", name="Copy what mends it").click()
    assert "SSH server" in page.evaluate("navigator.clipboard.readText()")
    picture(page, "sidebar-fleet-broken")
    assert serious_findings(page, ".jp-dstack-Sidebar") == []
    notebook.save()
    (saved,) = saved_outputs(lab.project / "fleet.ipynb", 1)
    assert "2 not usable" in saved.data["text/plain"]

    sidebar.button("Look again at lab").click()
    sidebar.button("Delete lab-1").click()
    confirm(page, "Delete")
    with connect(Home(home)) as client:
        wait_until(
            lambda: all(one.delete_requested_at for one in client.fleet("lab").instances[1:]),
            "the machine is let go",
        )


def test_a_form_becomes_a_cell(lab: LabServer, page: Page, home: Path) -> None:
    notebook = lab.notebook(page, "form.ipynb", [LOAD])
    notebook.run(0)
    notebook.write(0, "%dstack engine start")
    notebook.run(0)
    sidebar = Sidebar(page).open()
    sidebar.node.get_by_text("Add a machine", exact=True).click()
    form = sidebar.node.get_by_role("form", name="Machine to add")
    form.get_by_role("textbox", name="Host").fill("10.0.0.5 10.0.0.6")
    form.get_by_role("textbox", name="User").fill("ubuntu")
    form.get_by_role("textbox", name="Private key").fill("~/.ssh/id_ed25519")
    form.get_by_role("textbox", name="Fleet").fill("lab")
    picture(page, "sidebar-fleet-form")
    form.get_by_role("button", name="Insert a cell that adds it").click()
    cell = notebook.cell(1)
    expect(cell).to_contain_text("%%dstack fleet")
    expect(cell).to_contain_text("name: lab")
    expect(cell).to_contain_text("- 10.0.0.6")


@pytest.mark.docker
def test_a_box_is_added_used_and_let_go(
    lab: LabServer, page: Page, bed: Bed, bed_python_image: str, home: Path
) -> None:
    host = bed.hosts[0]
    ssh = f"{{user: root, identity_file: {bed.identity_file}, hosts: [{host.address}]}}"
    task = f"%%dstack task --fleet lab -n far -y\nimage: {bed_python_image}\ncommands: [sleep 600]"
    cells = [LOAD, f"%%dstack fleet -n lab\nssh_config: {ssh}", task]
    notebook = lab.notebook(page, "box.ipynb", cells)
    sidebar = Sidebar(page).open()
    notebook.run(0)
    output = notebook.run(1)
    expect(output).to_contain_text("1 machine: 1 ready", timeout=PATIENCE)
    expect(output.get_by_role("group", name="Fleet lab")).to_have_count(0)
    expect(output).to_contain_text("its SSH server forwards ports")
    machine = sidebar.node.get_by_role("listitem", name="lab-0", exact=True)
    expect(machine).to_contain_text("ready")
    notebook.run(2)
    expect(sidebar.row("far")).to_contain_text("running", timeout=PATIENCE)
    expect(machine).to_contain_text("in use")
    expect(machine).to_contain_text("runs far")
    picture(page, "sidebar-fleet")
    host.cut()
    expect(machine).to_contain_text("does not answer", timeout=PATIENCE)
    expect(sidebar.row("far")).to_contain_text("running")
    picture(page, "sidebar-fleet-silent")
    host.heal()
    expect(machine).to_contain_text("in use", timeout=PATIENCE)
    sidebar.button("Insert a cell that runs on lab").click()
    expect(notebook.cell(3)).to_contain_text("fleets: [lab]")
    sidebar.button("Delete lab").click()
    confirm(page, "Delete")
    expect(page.get_by_role("alert").filter(has_text="far")).to_be_visible()
    sidebar.button("Stop far").click()
    confirm(page, "Stop")
    expect(sidebar.row("far")).to_contain_text("terminated")
    sidebar.button("Delete lab").click()
    confirm(page, "Delete")
    expect(machine).to_have_count(0, timeout=PATIENCE)
    assert host.containers() == []
