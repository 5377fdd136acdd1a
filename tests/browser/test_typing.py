"""While somebody types in a `%%dstack` cell: colours, marks, help and Tab, in Lab and Notebook."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.lab import LabServer, NotebookPage

pytestmark = pytest.mark.browser

PYTHON = "# %%dstack\ndef key(commands: int): return 'it is', commands"
CELL = """%%dstack task --name train
commands:
  - echo it's fine
  - |
    if true; then
    fi
resources:
  gpu: A100
# end"""
WRONG = "%%dstack task\ncommands:\n  - echo 1\npriorty: 3"
#: A page that has only just asked the server shows what it answered within this, in ms.
SOON = 10_000
#: Lab gives a kernel a second to complete; on a busy machine it may take longer.
COMPLETER = {"providerTimeout": 60_000, "showDocumentationPanel": True}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """One server for all tests of this module, which open the same notebook and keep its kernel."""
    folder = tmp_path_factory.mktemp("typing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSTACK_JUPYTER_HOME", str(folder / "dstack-home"))
        server = LabServer(folder)
        settings = folder / "jupyter-home" / "settings" / "@jupyterlab" / "completer-extension"
        settings.mkdir(parents=True)
        (settings / "manager.jupyterlab-settings").write_text(json.dumps(COMPLETER))
        server.start()
    yield server
    server.stop()


@pytest.fixture(params=["lab", "notebook"])
def write(request: pytest.FixtureRequest, site: LabServer, page: Page) -> Callable[..., Any]:
    """What opens a page with cells, in JupyterLab and in Notebook 7."""

    def opened(*cells: str) -> NotebookPage:
        name = f"{request.param}.ipynb"
        site.notebook_file(name, ["%load_ext dstack_jupyter", *cells])
        if request.param == "lab":
            return site.open(page, name)
        page.goto(f"{site.url}/notebooks/{name}?token={site.token}")
        shown = NotebookPage(page)
        shown.wait_until_idle()
        return shown

    return opened


def line(cell: Locator, number: int) -> Locator:
    """Return a line of the cell's text, counted from 0."""
    return cell.locator(".cm-line").nth(number)


def colour_of(cell: Locator, number: int, word: str) -> str:
    """Return the colour that *word* has in a line."""
    found: str = line(cell, number).evaluate(
        """(line, word) => {
          const walker = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
          while (walker.nextNode()) {
            if (walker.currentNode.data.includes(word)) {
              return getComputedStyle(walker.currentNode.parentElement).color;
            }
          }
          return `${word} is not in ${line.textContent}`;
        }""",
        word,
    )
    return found


def theme_colour(page: Page, name: str) -> str:
    """Return the colour that the theme has for a kind of word."""
    found: str = page.evaluate(
        """name => {
          const probe = document.createElement('span');
          probe.style.color = `var(--jp-mirror-editor-${name}-color)`;
          document.body.append(probe);
          const { color } = getComputedStyle(probe);
          probe.remove();
          return color;
        }""",
        name,
    )
    return found


def put_cursor(cell: Locator, number: int, *, at_end: bool = True) -> None:
    """Put the cursor into a line, as with a click and a key."""
    line(cell, number).click()
    cell.page.keyboard.press("End" if at_end else "Home")


def test_the_cell_is_coloured_as_yaml_and_others_stay_python(
    write: Callable[..., NotebookPage],
) -> None:
    notebook = write(CELL, PYTHON)
    cell, python, page = notebook.cell(1), notebook.cell(2), notebook.page

    def is_coloured() -> None:
        assert colour_of(cell, 0, "%%dstack") == theme_colour(page, "meta")
        assert colour_of(cell, 0, "task") == theme_colour(page, "keyword")
        assert colour_of(cell, 0, "--name") == theme_colour(page, "attribute")
        assert colour_of(cell, 1, "commands") == theme_colour(page, "property")
        assert colour_of(cell, 2, "fine") == colour_of(cell, 2, "echo")
        assert colour_of(cell, 4, "then") == theme_colour(page, "string")
        assert colour_of(cell, 8, "# end") == theme_colour(page, "comment")

    def is_python() -> None:
        expect(python.get_by_text("def", exact=True)).to_have_css(
            "color", theme_colour(page, "keyword")
        )
        assert colour_of(python, 1, "'it is'") == theme_colour(page, "string")

    is_python()
    is_coloured()
    notebook.restart_kernel()
    is_python()
    is_coloured()


def test_colours_come_and_go_with_the_first_line(write: Callable[..., NotebookPage]) -> None:
    notebook = write("")
    cell, page = notebook.cell(1), notebook.page
    cell.locator(".cm-content").click()
    page.keyboard.type("%%dstack task\ncommands: [ls]")
    assert colour_of(cell, 1, "commands") == theme_colour(page, "property")
    page.keyboard.press("Control+Home")
    page.keyboard.press("Delete")
    assert colour_of(cell, 1, "commands") != theme_colour(page, "property")


def test_a_new_line_is_indented_as_yaml_is(write: Callable[..., NotebookPage]) -> None:
    notebook = write("")
    cell, page = notebook.cell(1), notebook.page
    cell.locator(".cm-content").click()
    for text in ("%%dstack task", "resources:", "gpu:", "name: A100"):
        page.keyboard.type(text)
        page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("x")
    lines = cell.locator(".cm-line").all_inner_texts()
    assert lines == ["%%dstack task", "resources:", "  gpu:", "    name: A100", "      x"]


def test_a_wrong_line_is_marked_while_it_is_written_and_no_longer_when_it_is_mended(
    write: Callable[..., NotebookPage],
) -> None:
    notebook = write(WRONG, PYTHON)
    cell, page = notebook.cell(1), notebook.page
    wrong = cell.locator(".jp-dstack-Typing-wrong")
    text = cell.get_by_role("textbox")

    expect(wrong).to_have_text("priorty", timeout=SOON)
    expect(line(cell, 3)).to_have_class(re.compile("jp-dstack-Typing-wrongLine"))
    expect(text).to_have_attribute("aria-invalid", "true")
    expect(text).to_have_accessible_description(
        re.compile(r"1 problem in this cell\. Line 4: .*priority")
    )

    wrong.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("did you mean `priority`?")
    page.mouse.move(0, 0)

    put_cursor(cell, 0)
    page.keyboard.press("F8")
    expect(page.get_by_role("tooltip")).to_contain_text("is not a known key")
    page.keyboard.press("Control+ArrowRight")
    expect(page.get_by_role("tooltip")).to_have_count(0)

    put_cursor(cell, 3)
    for _ in range(len("ty: 3")):
        page.keyboard.press("Backspace")
    page.keyboard.type("ity: 3")
    expect(wrong).to_have_count(0, timeout=SOON)
    expect(text).not_to_have_attribute("aria-invalid", "true")
    expect(notebook.cell(2).locator(".jp-dstack-Typing-words")).to_have_count(0)


def test_without_the_server_extension_nothing_is_marked_and_nothing_is_said(
    write: Callable[..., NotebookPage], page: Page
) -> None:
    asked = []

    def refuse(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(status=404, body="")

    page.route("**/dstack-jupyter/check*", refuse)
    with page.expect_response("**/dstack-jupyter/check*", timeout=120_000):
        notebook = write(WRONG)
    expect(notebook.cell(1).locator(".jp-dstack-Typing-wrong")).to_have_count(0)
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert asked


def test_a_key_is_explained_where_the_pointer_rests(write: Callable[..., NotebookPage]) -> None:
    notebook = write(CELL)
    key = line(notebook.cell(1), 7).get_by_text("gpu", exact=True)
    key.hover()
    tooltip = notebook.page.get_by_role("tooltip")
    expect(tooltip).to_contain_text("resources.gpu", timeout=SOON)
    expect(tooltip).to_contain_text("GPUs; none if left out.")


def test_tab_completes_in_the_body_and_shift_tab_explains(
    write: Callable[..., NotebookPage],
) -> None:
    notebook = write("%%dstack task\nresources:\n  gp")
    notebook.run(0)
    cell, page = notebook.cell(1), notebook.page
    put_cursor(cell, 2)
    page.keyboard.press("Tab")
    offered = page.locator(".jp-Completer-item").filter(has_text="gpu:")
    expect(offered.or_(line(cell, 2).filter(has_text="gpu:")).first).to_be_visible()
    if offered.is_visible():  # Lab takes a single candidate at once, unless it knows one more
        page.keyboard.press("Enter")
    expect(line(cell, 2)).to_have_text("  gpu:")

    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+Tab")
    explained = page.locator(".jp-Tooltip")
    expect(explained).to_contain_text("resources.gpu")
    expect(explained).to_contain_text("Value: GPUs: A100")


def test_tab_in_another_cell_completes_python_alone(write: Callable[..., NotebookPage]) -> None:
    notebook = write("resources = 1", "resou")
    notebook.run(0)
    notebook.run(1)
    put_cursor(notebook.cell(2), 0)
    notebook.page.keyboard.press("Tab")
    offered = notebook.page.locator(".jp-Completer-item")
    done = line(notebook.cell(2), 0).filter(has_text=re.compile("^resources$"))
    expect(offered.or_(done).first).to_be_visible()
    expect(offered.filter(has_text="resources:")).to_have_count(0)


def test_tab_shows_keys_with_their_help(write: Callable[..., NotebookPage]) -> None:
    notebook = write("%%dstack task\nmax_")
    notebook.run(0)
    cell, page = notebook.cell(1), notebook.page
    put_cursor(cell, 1)
    page.keyboard.press("Tab")
    offered = page.locator(".jp-Completer-item")
    expect(offered.filter(has_text="max_duration:")).to_be_visible()
    expect(offered.filter(has_text=re.compile("%%dstack|task"))).to_have_count(0)
    page.keyboard.press("ArrowDown")
    expect(page.locator(".jp-Completer-docpanel")).to_contain_text("(key of a task)")
