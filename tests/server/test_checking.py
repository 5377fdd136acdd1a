"""What is wrong with a cell, by line and column, while it is written."""

from __future__ import annotations

import pytest

from dstack_jupyter.server.checking import problems_in

BODY = "\ncommands: [x]"


def places(cell: str) -> list[tuple[int, int, str]]:
    """Return where the problems of *cell* are: line, column, key."""
    return [(one["line"], one["column"], one["key"]) for one in problems_in(cell)]


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "x = 1",
        "%%dstack",
        "%%dstack task",
        "%%dstack task\n\n",
        "%%bash\nresources: {",
        "%%dstack chat model\nwhy: [",
        "%%dstack tusk\nnonsense: [",
        "%dstack ps",
        f"%%dstack task{BODY}",
        f"\n\n  %%dstack task -y --wait -o run{BODY}",
        f"%%dstack task --gpu $gpu --name $name -e TOKEN{BODY}\nenv: [NOT_HERE]",
        "%%dstack task -y --lr 0.1\ncommands: ['x ${{ run.args }}']",
        "%%dstack task\ncommands: ['echo $HOME `id` $(id)']",
        "%%dstack fleet -n mine\nnodes: 2",
        "%%dstack fleet --wait\nname: lab\nssh_config: {hosts: [a]}",
    ],
)
def test_what_is_well_or_not_begun_or_not_ours_has_no_problem(cell: str) -> None:
    assert problems_in(cell) == []


@pytest.mark.parametrize(
    ("cell", "where"),
    [
        ("%%dstack task\nresorces: {gpu: 1}\ncommands: [x]", [(2, 1, "resorces")]),
        ("%%dstack fleet\nssh_config: {hosts: []}", [(2, 21, "ssh_config.hosts")]),
        (f"%%dstack task{BODY}\nmax_price: -1\ntype: service", [(4, 7, "type")]),
        (f"\n\n%%dstack task{BODY}\nmax_price: -1", [(5, 12, "max_price")]),
        (f"%%dstack task -y --gpu A1:a:b{BODY}", [(1, 18, "")]),
        (f"%%dstack task --name 'x{BODY}", [(1, 15, "")]),
        (f"%%dstack task -y --bogus{BODY}", [(1, 18, "")]),
        (f"%%dstack task --name Ä{BODY}", [(1, 14, "")]),
        (f"%%dstack fleet --gpu 1{BODY}", [(1, 16, ""), (2, 1, "commands")]),
        ("%%dstack task\n\tcommands: [x]", [(2, 1, "")]),
        ("%%dstack task\ncommands: ['${{ nothing.here }}']", [(2, 12, "commands[0]")]),
    ],
)
def test_what_is_wrong_is_found_where_it_is(cell: str, where: list[tuple[int, int, str]]) -> None:
    assert places(cell) == where


@pytest.mark.parametrize(
    "body",
    [
        "[" * 50_000,
        "{" * 60_000,
        "- " * 60_000,
        "? " * 9000,
        "a: " * 30_000,
        "&a [*a, *a]",
        "&a x\nb: " + "*a " * 20_000,
        "!!python/object:os.system x",
        "a: 1e999999999",
        "\x00",
        "é\ud800",
    ],
)
def test_hostile_cells_are_told_of_and_do_no_harm(body: str) -> None:
    assert problems_in(f"%%dstack task\n{body}")
