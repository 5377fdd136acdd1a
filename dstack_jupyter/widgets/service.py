"""The card of one service: its address, replicas, traffic, output, and a box to try it.

Called by the notebook's surface. The token is never in it: not in what is sent to pages, not in
what is saved with the notebook.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping

import traitlets

from dstack_engine.errors import DstackError
from dstack_engine.records.events import Frame
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunView
from dstack_engine.records.updates import GatewayView
from dstack_jupyter.gateway import Gateway
from dstack_jupyter.rendering.services import LAST_LINES, ServiceCopy, model_of
from dstack_jupyter.replicas import ServiceWord, standing_of
from dstack_jupyter.widgets.card import Card, now
from dstack_jupyter.widgets.modules import joined, source
from dstack_jupyter.widgets.output import Output
from dstack_jupyter.widgets.pace import PACE, Pace
from dstack_jupyter.widgets.service_states import labels_of, sample_of, service_state
from dstack_jupyter.widgets.trials import Trials

#: Samples of the traffic that a card keeps for its plots: five minutes of one a second.
SAMPLES = 300
#: How long a copy waits to know the address, in seconds.
PATIENCE = 2.0
#: Outputs that a card keeps; those of replicas that ended long ago are let go.
MAX_OUTPUTS = 24

_MODULES = (
    *("element.js", "amounts.js", "screen.js", "store.js", "logview.js", "logbar.js"),
    *("theme.js", "stopping.js", "card.js", "plot.js", "trial.js", "service.js"),
)


class ServiceCard(Card):
    """One service in a cell."""

    _esm = joined(*_MODULES)
    _css = source("run.css") + source("service.css")
    #: What the card shows; made by `service_states.service_state`.
    service_state = traitlets.Dict().tag(sync=True)

    def __init__(self, view: RunView, gateway: Gateway, *, pace: Pace = PACE) -> None:
        """Make the card of *view*; *gateway* is the way to ask the service."""
        self._gateway = gateway
        self._place = GatewayView(None)
        self._looking = threading.Lock()
        self._is_copied = False  # whether the static copy shows it ready, with its address
        self._report: ServiceReport | None = None
        self._outputs: dict[str, Output] = {}
        self._samples: deque[list[float | None]] = deque(maxlen=SAMPLES)
        self._unsent: list[list[float | None]] = []
        model = model_of(view)
        self._trials = Trials(gateway, view.name, model.name if model else None, self.refresh)
        state = service_state(view, now(), None, self._place, ())
        super().__init__(view, pace=pace, service_state=state)
        if not view.finished:
            self._look_for_gateway()

    # -- news

    def log(self, frames: Iterable[Frame], log: str = "") -> None:
        """A replica has printed something; *log* is the name of its job's container."""
        with self._lock:
            output = self._outputs.setdefault(log, Output())
            self._let_go_of_old_outputs()
        output.take(frames)
        self.refresh()

    def service(self, report: ServiceReport) -> None:
        """The traffic was measured."""
        sample = sample_of(report, now())
        with self._lock:
            self._report = report
            self._samples.append(sample)
            self._unsent.append(sample)
        if self._place.port is None:
            self._look_for_gateway()
        self.refresh()

    def ended(self) -> None:
        """The service has ended and all its output was told: the card becomes static."""
        self._trials.close()
        super().ended()

    # -- drawing

    def draw(self) -> bool:
        """Send what is new to the pages; return whether more is waiting to be sent."""
        with self._lock:
            view, report, outputs = self._view, self._report, dict(self._outputs)
            samples, self._unsent = self._unsent, []
        state = service_state(view, now(), report, self._place, tuple(outputs))
        if state != {**self.service_state, "now": state["now"], "cost": state["cost"]}:
            self.service_state = state
        if samples:
            self.send({"type": "samples", "samples": samples})
        if not self._is_copied and self._has_come_up():
            self.renew_copy()
        for message in self._trials.take():
            self.send(message)
        for log, output in outputs.items():
            if piece := output.message():
                self._send_output(piece, log=log)
        return any(output.waits for output in outputs.values())

    def greet(self) -> None:
        """Bring a page that has just been opened to where the others are."""
        with self._lock:
            samples, outputs = list(self._samples), dict(self._outputs)
            self._unsent.clear()  # they are among those
        self.send({"type": "samples", "samples": samples, "all": True})
        for log, output in outputs.items():
            if output.sent:
                self._send_output(output.reset(), log=log)

    def renew_copy(self) -> None:
        """Bring the static copy beside the live card up to date, the address included."""
        if self._place.port is None and self._looking.acquire(timeout=PATIENCE):
            self._look()
        self._is_copied = self._has_come_up()
        super().renew_copy()

    def _has_come_up(self) -> bool:
        word = standing_of(self._view, self._report).word
        return self._place.port is not None and word in (ServiceWord.READY, ServiceWord.ASLEEP)

    def hear(self, content: Mapping[str, object]) -> bool:
        """Take what a page asks of the service."""
        return self._trials.hear(content)

    # -- static

    def static_copy(self, last: int | None = None) -> ServiceCopy:
        """Return the card as it stands, with each replica's *last* lines."""
        with self._lock:
            view, report, outputs = self._view, self._report, dict(self._outputs)
        screens = [
            (label.label, outputs[label.log].screen())
            for label in labels_of(view, tuple(outputs))
            if label.is_newest and label.log in outputs
        ]
        last = LAST_LINES if last is None else last
        return ServiceCopy(view, now(), report, self._place, screens, last)

    def __repr__(self) -> str:
        """Return a line for terminals."""
        return f"<service {self._view.name}: {standing_of(self._view, self._report).word}>"

    # -- where it is

    def _beat(self) -> None:
        super()._beat()
        if not self._frozen:
            self._look_for_gateway()

    def _look_for_gateway(self) -> None:
        # In a thread of its own, for the engine may be slow to answer.
        if self._looking.acquire(blocking=False):
            threading.Thread(target=self._look, name="dstack-address", daemon=True).start()

    def _look(self) -> None:
        try:
            place = self._gateway.view()
        except DstackError:
            return  # the last that was known: a gateway serves on while its engine is away
        finally:
            self._looking.release()
        if place != self._place:
            self._place = place
            self.refresh()

    def _let_go_of_old_outputs(self) -> None:
        living = {job.container for job in self._view.jobs if not job.finished}
        for log in [log for log in self._outputs if log not in living]:
            if len(self._outputs) <= MAX_OUTPUTS:
                return
            del self._outputs[log]
