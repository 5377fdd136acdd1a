"""Offers and why the others were refused, as text and HTML. Called by surfaces and `OffersView`."""

from __future__ import annotations

from collections.abc import Sequence

from dstack_engine.records.offers import Availability, Offer, Plan, Refusal, RefusalCount
from dstack_jupyter.rendering.markup import Table, bullets, escape, muted, plain, section, tag
from dstack_jupyter.rendering.quantities import counted, hourly_text, resources_text

#: Refused offers that are shown with their own reasons; of the others, reasons are counted.
MAX_REFUSALS = 20

_HEADINGS = ("#", "backend", "region", "instance", "resources", "spot", "price")
_AVAILABILITY = {
    Availability.IDLE: "ready: an instance of yours stands idle",
    Availability.BUSY: "taken at present; the run waits for it",
    Availability.NO_QUOTA: "the account's quota does not allow it",
    Availability.NOT_AVAILABLE: "sold out at present",
}


def offers_text(plan: Plan) -> str:
    """Return the plan's offers as an aligned table, then what was refused and why."""
    parts = []
    if plan.offers:
        parts.append(_table(plan.offers).text())
        parts += [f"{plain(note)}" for note in notes_of(plan.offers)]
    parts.append(summary_of(plan))
    parts += [f"note: {plain(remark)}" for remark in plan.remarks]
    if plan.total_refused or plan.refusals:
        parts += ["", f"{refused_title(plan)}:"]
        parts += [f"  {plain(line)}" for line in refusal_lines(plan)]
    return "\n".join(parts)


def offers_html(plan: Plan) -> str:
    """Return the plan's offers as a table, then what was refused behind a disclosure."""
    parts = []
    if plan.offers:
        parts.append(_table(plan.offers).html("Offers"))
        parts.append(bullets(notes_of(plan.offers)))
    parts.append(tag("div", muted(summary_of(plan))))
    parts.append(bullets(plan.remarks))
    if plan.total_refused or plan.refusals:
        summary = tag("summary", escape(refused_title(plan)), "cursor:pointer")
        body = summary + bullets(refusal_lines(plan))
        parts.append(tag("details", body) if plan.offers else tag("details", body, open="open"))
    return section("".join(parts))


def offer_cells(offer: Offer, number: int) -> tuple[str, ...]:
    """Return one row of the table."""
    return (
        str(number),
        backend_text(offer),
        offer.region or "-",
        offer.instance_type or "-",
        resources_text(offer.shape),
        "yes" if offer.spot else "no",
        hourly_text(offer.price),
    )


def backend_text(offer: Offer) -> str:
    """Return the backend, with the means to run jobs there: ``local (docker)``."""
    return f"{offer.backend} ({offer.host})"


def offer_notes(offer: Offer) -> list[str]:
    """Return what a person should know before choosing this offer."""
    availability = _AVAILABILITY.get(offer.availability)
    if offer.instance is not None and offer.availability is Availability.NOT_AVAILABLE:
        availability = "does not answer at present; the run waits for it"
    return [*([availability] if availability else []), *offer.remarks]


def notes_of(offers: Sequence[Offer]) -> list[str]:
    """Return the notes of a table's rows, each with its row's number; equal notes once."""
    rows: dict[str, list[str]] = {}
    for number, offer in enumerate(offers, start=1):
        for note in offer_notes(offer):
            rows.setdefault(note, []).append(str(number))
    return [f"#{', #'.join(numbers)}: {note}" for note, numbers in rows.items()]


def summary_of(plan: Plan) -> str:
    """Return how many offers there are, in a sentence."""
    total = max(plan.total_offers, len(plan.offers))
    if not total:
        return "No offer fits."
    if total > len(plan.offers):
        return f"The best {len(plan.offers):,} of {counted(total, 'offer')} that fit."
    return f"{counted(total, 'offer')} that fit." if total > 1 else "1 offer that fits."


def refused_title(plan: Plan) -> str:
    """Return the heading over the refused offers: ``2 refused — why``."""
    return f"{max(plan.total_refused, len(plan.refusals)):,} refused — why"


def refusal_lines(plan: Plan) -> list[str]:
    """Return why offers were refused: each of a few, or the reasons with their counts."""
    refused = max(plan.total_refused, len(plan.refusals))
    lines = [count_text(count) for count in plan.refused_by] if refused > MAX_REFUSALS else []
    shown = plan.refusals[: MAX_REFUSALS // (4 if lines else 1)]
    lines += [refusal_text(refusal) for refusal in shown]
    if lines and refused > len(shown) and not plan.refused_by:
        lines.append(f"and {refused - len(shown):,} more")
    return lines


def refusal_text(refusal: Refusal) -> str:
    """Return one refused offer with its reasons."""
    return f"{place_of(refusal.offer)}: {'; '.join(refusal.reasons)}"


def place_of(offer: Offer) -> str:
    """Return an offer's place; this computer's region and type only repeat its backend's name."""
    known = (offer.backend, str(offer.host))
    words = [word for word in (offer.region, offer.instance_type) if word not in known]
    return " ".join(word for word in (backend_text(offer), *words) if word)


def count_text(count: RefusalCount) -> str:
    """Return one reason with the number of offers it removed."""
    return f"{counted(count.count, 'offer')}: {count.reason}"


def _table(offers: Sequence[Offer]) -> Table:
    rows = [offer_cells(offer, number) for number, offer in enumerate(offers, start=1)]
    return Table(_HEADINGS, rows, frozenset({"#", "price"}))
