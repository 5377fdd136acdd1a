"""The options of each verb, declared once; `table` refers to these functions.

Values stay text here: the handlers read them with the language's own readers, so that
`--gpu 24GB..` and `gpu: 24GB..` mean the same.
"""

from __future__ import annotations

import argparse

from dstack_jupyter.arguments import Parser

#: What may be done with fleets that are there.
FLEET_ACTIONS = ("list", "show", "delete", "examine", "trust")


def nothing(_parser: Parser) -> None:
    """Declare no option at all."""


def naming(parser: Parser) -> None:
    """Declare what a fleet's, gateway's or volume's cell takes."""
    parser.add_argument("-n", "--name", metavar="NAME", help="name, instead of the body's own")


def fleet(parser: Parser) -> None:
    """Declare what `fleet` takes."""
    # Not argparse's choices: a cell with an unknown option would be told of its value instead.
    parser.add_argument("action", metavar="|".join(FLEET_ACTIONS), nargs="?")
    parser.add_argument("names", metavar="NAME", nargs="*", help="name of the fleet")
    naming(parser)
    _looking(parser)
    group = parser.add_argument_group("delete")
    group.add_argument(
        "-i",
        "--instance",
        metavar="N",
        action="append",
        default=[],
        help="only the machine of that number; may be repeated",
    )
    group.add_argument(
        "--force", action="store_true", help="forget machines that do not answer any more"
    )
    _sure(group)


def pool(parser: Parser) -> None:
    """Declare what `pool` takes."""
    parser.add_argument("action", metavar="add-ssh", choices=("add-ssh",))
    parser.add_argument("host", metavar="[USER@]HOST", help="as ssh takes it")
    parser.add_argument("-i", "--identity-file", metavar="KEY", help="private key to log in with")
    parser.add_argument("-p", "--port", metavar="PORT", help="SSH port, where it is not 22")
    parser.add_argument(
        "--fleet",
        "--pool",
        metavar="NAME",
        help="the fleet to add it to; default-pool if left out",
    )
    parser.add_argument(
        "--blocks", metavar="N", help="into how many parts it is split for several runs, or auto"
    )
    _looking(parser)


def _looking(parser: Parser) -> None:
    parser.add_argument(
        "--wait",
        action="store_true",
        help="stay until every machine was looked into; an error if one cannot be used",
    )


def submitting(parser: Parser) -> None:
    """Declare what a cell with a run takes."""
    _submitting(parser, "stay until the run has ended; an error if it failed")


def serving(parser: Parser) -> None:
    """Declare what a cell with a service takes."""
    _submitting(parser, "stay until the service is ready; an error if it does not start")


def _submitting(parser: Parser, waiting: str) -> None:
    parser.add_argument(
        "-n", "--name", metavar="NAME", help="name of the run; a random one if left out"
    )
    _starting(parser, waiting)
    parser.add_argument("-o", "--out", metavar="VAR", help="put the Run object into this variable")
    _overrides(parser)
    filters(parser)


def applying(parser: Parser) -> None:
    """Declare what `apply` takes."""
    parser.add_argument("-f", "--file", metavar="FILE", help="the configuration")
    _submitting(
        parser,
        "stay until a task has ended, or a service is ready; an error if it failed",
    )


def running(parser: Parser) -> None:
    """Declare what `run` takes."""
    parser.add_argument("path", metavar="PATH", help="folder of the project, as in `run .`")
    applying(parser)


def _starting(parser: Parser, waiting: str) -> None:
    group = parser.add_argument_group("starting")
    group.add_argument("-y", "--yes", action="store_true", help="take the best offer; do not ask")
    group.add_argument("--dry-run", action="store_true", help="show the plan; start nothing")
    group.add_argument("--wait", action="store_true", help=waiting)
    group.add_argument(
        "-d", "--detach", action="store_true", help="start it and show no more than its name"
    )


def _overrides(parser: Parser) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument("--profile", metavar="P", help="profile of .dstack/profiles.yml to use")
    group.add_argument(
        "-e",
        "--env",
        metavar="K[=V]",
        action="append",
        default=[],
        help="environment variable; without =V it is taken from here",
    )
    group.add_argument(
        "-p",
        "--port",
        metavar="PORT",
        action="append",
        default=[],
        help="port to reach at localhost: 8080, 80:8080 or *:8080",
    )
    group.add_argument("--max-duration", metavar="TIME", help="stop it after so long: 30m, 6h, off")
    retry = group.add_mutually_exclusive_group()
    retry.add_argument("--retry", action="store_true", default=None, help="try again when it fails")
    retry.add_argument("--no-retry", action="store_false", dest="retry", help="do not try again")
    group.add_argument(
        "--no-files", action="store_true", help="do not send the project's files along"
    )


def filters(parser: Parser) -> None:
    """Declare what an offer must have."""
    group = parser.add_argument_group("offers")
    group.add_argument("--gpu", metavar="SPEC", help="A100, 24GB.., H100:80GB:2")
    group.add_argument("--cpu", metavar="RANGE", help="CPUs: 4, 2..8")
    group.add_argument("--memory", metavar="RANGE", help="memory: 16GB, 8GB..")
    group.add_argument("--disk", metavar="RANGE", help="disk: 100GB..")
    group.add_argument("--max-price", metavar="USD", help="dollars an hour at most")
    spot = group.add_mutually_exclusive_group()
    for policy in ("spot", "on-demand"):
        spot.add_argument(
            f"--{policy}",
            action="store_const",
            const=policy,
            dest="spot_policy",
            help=f"only {policy} machines",
        )
    spot.add_argument(
        "--spot-auto", action="store_const", const="auto", dest="spot_policy", help="either"
    )
    for option, letter, words in (
        ("backend", "-b", "only this backend"),
        ("region", "-r", "only this region"),
        ("instance-type", None, "only this type of machine"),
    ):
        names = [letter, f"--{option}"] if letter else [f"--{option}"]
        group.add_argument(
            *names, metavar="NAME", action="append", default=[], help=f"{words}; may be repeated"
        )
    group.add_argument(
        "--fleet",
        metavar="NAME",
        action="append",
        default=[],
        help="only machines of this fleet; may be repeated",
    )
    group.add_argument(
        "--reuse", action="store_true", help="only machines that are there already; rent none"
    )


def offers(parser: Parser) -> None:
    """Declare what `offers` takes."""
    parser.add_argument("-f", "--file", metavar="FILE", help="plan this configuration")
    parser.add_argument("--profile", metavar="P", help="profile of .dstack/profiles.yml to use")
    filters(parser)


def listing(parser: Parser) -> None:
    """Declare what `ps` takes."""
    parser.add_argument("-a", "--all", action="store_true", help="ended runs, too")
    parser.add_argument(
        "-w", "--watch", action="store_true", help="go on showing, until interrupted"
    )


def one_run(parser: Parser) -> None:
    """Declare the name of one run."""
    parser.add_argument("run", metavar="NAME", help="name of the run")


def logs(parser: Parser) -> None:
    """Declare what `logs` takes."""
    one_run(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    parser.add_argument(
        "--all", action="store_true", help="from the very start; a notebook shows the last 1 MB"
    )
    parser.add_argument(
        "--replica",
        metavar="N",
        help="number of a service's replica; the first that lives if left out",
    )
    parser.add_argument(
        "--node", metavar="N", help="number of a node of a task on several; the first if left out"
    )


def chatting(parser: Parser) -> None:
    """Declare what `chat` takes."""
    parser.add_argument("model", metavar="MODEL", help="name of the model, as in `models`")
    parser.add_argument(
        "message",
        metavar="WORD",
        nargs="*",
        help="the question; in a notebook the cell's body, in a terminal standard input",
    )
    parser.add_argument(
        "-c",
        "--continue",
        dest="go_on",
        action="store_true",
        help="go on with this kernel's last conversation with the model",
    )
    parser.add_argument("--system", metavar="TEXT", help="what the model is told beforehand")
    parser.add_argument("--temperature", metavar="T", help="0 for the likeliest words, 1 and more")
    parser.add_argument("--max-tokens", metavar="N", help="how long the answer may be")
    parser.add_argument("-o", "--out", metavar="VAR", help="put the answer into this variable")


def stopping(parser: Parser) -> None:
    """Declare what `stop` takes."""
    parser.add_argument("runs", metavar="NAME", nargs="+", help="name of the run")
    parser.add_argument(
        "-x", "--abort", action="store_true", help="at once, without asking politely"
    )
    _sure(parser)


def deleting(parser: Parser) -> None:
    """Declare what `delete` takes."""
    parser.add_argument("runs", metavar="NAME", nargs="+", help="name of the run")
    _sure(parser)


def events(parser: Parser) -> None:
    """Declare what `events` takes."""
    parser.add_argument("run", metavar="NAME", nargs="?", help="only of this run")
    parser.add_argument("--limit", metavar="N", default="200", help="how many, 200 if left out")


def executing(parser: Parser) -> None:
    """Declare the run of `exec`; what follows is the command."""
    parser.add_argument("run", metavar="NAME", help="name of the run; then the command")


def pulling(parser: Parser) -> None:
    """Declare what `pull` takes."""
    parser.add_argument("run", metavar="NAME", help="name of the run, running or ended")
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="file or folder of the run's project"
    )


def files(parser: Parser) -> None:
    """Declare what `validate` takes."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="file to look at; - is standard input"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def pruning(parser: Parser) -> None:
    """Declare what `prune` takes."""
    parser.add_argument("--all", action="store_true", help="the ended runs' records and logs, too")
    _sure(parser)


def engine(parser: Parser) -> None:
    """Declare what `engine` takes."""
    parser.add_argument("action", metavar="start|status|stop", choices=("start", "status", "stop"))
    parser.add_argument("--all", action="store_true", help="with stop: stop all runs as well")
    _sure(parser)


def helping(parser: Parser) -> None:
    """Declare what `help` takes."""
    parser.add_argument("verb", metavar="VERB", nargs="?")


def _sure(parser: Parser | argparse._ArgumentGroup) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
