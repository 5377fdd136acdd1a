"""Every verb once: its words, its help, and which function does it.

`magics` runs it for `%dstack` and `%%dstack`, `cli` for `dstack-jupyter`, `completion` and
`docs/commands.md` are made from it. Light on purpose (argparse only): what a verb needs is
imported when it is first called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dstack_engine.errors import ArgumentError
from dstack_jupyter.arguments import Parser, suggestion
from dstack_jupyter.commands import options

NOTEBOOK = "%dstack"
TERMINAL = "dstack-jupyter"


@dataclass(frozen=True)
class Command:
    """One verb."""

    name: str
    #: What it does, as one sentence for the list of all verbs.
    summary: str
    #: ``module:function`` below `dstack_jupyter.commands`; called with a `Call`.
    handler: str
    #: Declares its options and words.
    declare: Callable[[Parser], None] = options.nothing
    #: More help: examples, shown below the options.
    examples: str = ""
    #: It is written `%%dstack VERB`, with a configuration as the cell's body.
    has_body: bool = False
    #: It may be written either way: `%%dstack VERB` with a body, or `%dstack VERB` and words.
    may_have_body: bool = False
    #: Words that no option takes go to the verb (`${{ run.args }}`, a command to run).
    keeps_rest: bool = False

    def parser(self, program: str) -> Parser:
        """Return the parser of this verb's options; *program* is how its caller is written."""
        if self.has_body or (self.may_have_body and program == NOTEBOOK):
            program = f"%{NOTEBOOK}"
        parser = Parser(f"{program} {self.name}", self.summary, self.examples or None)
        self.declare(parser)
        return parser

    def function(self) -> Callable[[Any], object]:
        """Return the function that does it; imports what it needs at the first call."""
        module, _, name = self.handler.partition(":")
        found: Callable[[Any], object] = getattr(
            importlib.import_module(f"dstack_jupyter.commands.{module}"), name
        )
        return found


_TASK = """\
Without -y nothing is started until an offer is chosen in the table.
An option's whole value may be a variable of the notebook: `--name $name`. The body is never
expanded: `$` and `${{ }}` in it are its own.

    %%dstack task --name train -y -e HF_TOKEN -- --lr 0.1
    commands:
      - python train.py ${{ run.args }}
"""

_SERVICE = """\
It is reached at http://NAME.localhost:PORT/ and, for programs that do not know such names, at
http://127.0.0.1:PORT/services/NAME/; the card shows both. Requests need the header
`Authorization: Bearer TOKEN` unless the service says `auth: false`.

    %%dstack service --name chat -y --wait
    commands:
      - python serve.py --port $DSTACK_SERVICE_PORT
    port: 8000
    model: my-model
    replicas: 0..2
    scaling: {metric: concurrency, target: 4}
"""

_FLEET = """\
Applying a fleet again changes it: machines come and go as `hosts` says. With a word and no body it
is about fleets that are there; `trust` takes a fleet and a machine whose host key has changed.

    %%dstack fleet --name lab
    ssh_config:
      user: ubuntu
      identity_file: ~/.ssh/id_ed25519
      hosts: [10.0.0.5, {hostname: 10.0.0.6, blocks: 4}]

    %dstack fleet list
    %dstack fleet show lab
    %dstack fleet examine lab
    %dstack fleet delete lab -i 1
    %dstack fleet trust lab 10.0.0.5
"""

_CHAT = """\
    %%dstack chat my-model --system "You are brief." -o answer
    Why is the sky blue?

    dstack-jupyter chat my-model Why is the sky blue?
"""

COMMANDS: tuple[Command, ...] = (
    Command(
        "task",
        "Run the task in this cell.",
        "submitting:run_cell",
        options.submitting,
        examples=_TASK,
        has_body=True,
        keeps_rest=True,
    ),
    Command(
        "service",
        "Run the service in this cell, or update the one of that name.",
        "submitting:run_cell",
        options.serving,
        examples=_SERVICE,
        has_body=True,
        keeps_rest=True,
    ),
    Command(
        "dev-environment",
        "Check and plan the dev environment in this cell; it is not started by this version.",
        "submitting:run_cell",
        options.submitting,
        has_body=True,
        keeps_rest=True,
    ),
    Command(
        "fleet",
        "Make or change the fleet in this cell: machines of yours, reached by SSH.",
        "fleets:handle",
        options.fleet,
        examples=_FLEET,
        may_have_body=True,
    ),
    Command(
        "pool",
        "Add a machine of yours, reached by SSH, to a fleet.",
        "fleets:add_host",
        options.pool,
        examples="    %dstack pool add-ssh ubuntu@10.0.0.5 -i ~/.ssh/id_ed25519",
    ),
    Command(
        "gateway",
        "Check the gateway in this cell; it is not started by this version.",
        "submitting:plan_cell",
        options.naming,
        has_body=True,
    ),
    Command(
        "volume",
        "Check the volume in this cell; it is not started by this version.",
        "submitting:plan_cell",
        options.naming,
        has_body=True,
    ),
    Command(
        "apply",
        "Run the configuration in a file.",
        "submitting:apply",
        options.applying,
        examples="Without -f it is .dstack.yml, then .dstack.yaml; `-f -` reads standard input.\n",
        keeps_rest=True,
    ),
    Command(
        "run",
        "Run the configuration in a file, with PATH as the project.",
        "submitting:run_project",
        options.running,
        examples="    %dstack run . -f train.dstack.yml -y --lr 0.1",
        keeps_rest=True,
    ),
    Command(
        "offers",
        "Show what could be rented now, and why the rest does not fit.",
        "offers:show_offers",
        options.offers,
        examples="    %dstack offers --gpu 24GB.. --max-price 2",
    ),
    Command("ps", "List the runs.", "runs:list_runs", options.listing),
    Command("logs", "Show what a run printed.", "runs:show_logs", options.logs),
    Command("attach", "Show a run live, with its ports.", "runs:attach", options.one_run),
    Command("models", "List the models that services serve.", "models:list_models"),
    Command(
        "chat",
        "Ask a model; the answer is shown as it comes.",
        "models:chat",
        options.chatting,
        examples=_CHAT,
        may_have_body=True,
        keeps_rest=True,
    ),
    Command(
        "token",
        "Print the token for services and models; in a terminal only.",
        "models:show_token",
        examples='    curl -H "Authorization: Bearer $(dstack-jupyter token)" '
        "http://web.localhost:4180/",
    ),
    Command("stop", "Stop runs: politely, or at once with --abort.", "runs:stop", options.stopping),
    Command(
        "delete", "Forget ended runs: their records and logs.", "runs:delete", options.deleting
    ),
    Command("events", "List what happened, the newest last.", "runs:list_events", options.events),
    Command(
        "exec",
        "Run a command inside a running run; in a terminal, without one, open a shell.",
        "runs:execute",
        options.executing,
        examples="    %dstack exec train -- nvidia-smi -L",
        keeps_rest=True,
    ),
    Command(
        "pull",
        "Copy files of a run to this computer.",
        "files:pull",
        options.pulling,
        examples="As with cp, the last of several paths is the folder to copy to.\n\n"
        "    %dstack pull train out/model.pt\n    %dstack pull train out logs results",
    ),
    Command("validate", "Tell whether files are well written.", "files:validate", options.files),
    Command(
        "prune",
        "Remove what ended runs left: containers, files, logs.",
        "engine:prune",
        options.pruning,
    ),
    Command("doctor", "Look for what is missing or broken, and say what to do.", "engine:doctor"),
    Command("engine", "Start, look at or stop the engine.", "engine:control", options.engine),
    Command(
        "version", "Show the versions of this package and of the running engine.", "engine:version"
    ),
    Command(
        "help",
        "Show this list, what one verb takes, or what a key of a configuration means.",
        "help:show_help",
        options.helping,
        examples="    %dstack help task\n    %dstack help resources.gpu",
    ),
)

_BY_NAME = {command.name: command for command in COMMANDS}


def find_command(verb: str, program: str) -> Command:
    """Return the command called *verb*. Raises `ArgumentError` with the one probably meant."""
    if verb in _BY_NAME:
        return _BY_NAME[verb]
    raise ArgumentError(
        f"{program} has no verb {verb!r}{suggestion(verb, _BY_NAME)}",
        hint=f"`{program} help` lists them.",
    )


def overview(program: str) -> str:
    """Return the list of all verbs."""
    cells = [command for command in COMMANDS if command.has_body or command.may_have_body]
    lines = [command for command in COMMANDS if not command.has_body]
    parts = []
    if program == NOTEBOOK:
        parts += [
            f"%{NOTEBOOK} VERB [options], with the configuration as the cell's body:",
            *_rows(cells),
            "",
        ]
    parts += [
        f"{program} VERB [options]:",
        *_rows(lines),
        "",
        f"`{program} help VERB` shows its options.",
    ]
    return "\n".join(parts)


def _rows(commands: Sequence[Command]) -> list[str]:
    return [f"  {command.name:<17}{command.summary}" for command in commands]
