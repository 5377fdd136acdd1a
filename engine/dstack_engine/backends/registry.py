"""The backends that are configured, by name. The engine makes one and asks it for all offers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from dstack_engine.backends.base import Backend
from dstack_engine.errors import BackendError
from dstack_engine.records.offers import Offer

logger = logging.getLogger(__name__)


class Registry(Mapping[str, Backend]):
    """Backends by name, in the order of their preference."""

    def __init__(self, backends: Iterable[Backend]) -> None:
        """Hold *backends*; of two with one name the later."""
        self._backends = {backend.name: backend for backend in backends}

    def __getitem__(self, name: str) -> Backend:
        """Return the backend called *name*; raise `KeyError` when it is not configured."""
        return self._backends[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the configured backends."""
        return iter(self._backends)

    def __len__(self) -> int:
        """Return how many backends are configured."""
        return len(self._backends)

    def list_offers(self) -> tuple[list[Offer], list[str]]:
        """Return everything that can be had, and a sentence for each backend that did not answer.

        One backend's trouble does not hide the others' offers.
        """
        offers: list[Offer] = []
        remarks: list[str] = []
        for name, backend in self._backends.items():
            try:
                offers.extend(backend.offers())
            except BackendError as error:
                logger.warning("backend %s gave no offers: %s", name, error)
                remarks.append(f"{name} did not answer: {error}")
        return offers, remarks
