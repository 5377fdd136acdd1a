"""Names of runs, fleets and volumes: the pattern they keep, and random ones."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from typing import Final

from dstack_engine.errors import ArgumentError

#: 2 to 41 characters: a small letter, then small letters, digits and dashes.
NAME_PATTERN: Final = r"^[a-z][a-z0-9-]{1,40}$"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{1,40}")

_ADJECTIVES: Final = [
    "able",
    "amber",
    "ample",
    "apt",
    "aqua",
    "bold",
    "brave",
    "breezy",
    "bright",
    "brisk",
    "calm",
    "candid",
    "clear",
    "clever",
    "cosy",
    "crisp",
    "curious",
    "deft",
    "dapper",
    "eager",
    "early",
    "easy",
    "fair",
    "fancy",
    "fast",
    "fine",
    "firm",
    "fleet",
    "fond",
    "fresh",
    "gentle",
    "glad",
    "golden",
    "good",
    "grand",
    "green",
    "happy",
    "hardy",
    "honest",
    "humble",
    "jolly",
    "keen",
    "kind",
    "light",
    "lively",
    "lucid",
    "lucky",
    "lush",
    "mellow",
    "merry",
    "mild",
    "modest",
    "neat",
    "nimble",
    "noble",
    "patient",
    "plain",
    "plucky",
    "polite",
    "prime",
    "prompt",
    "proud",
    "quick",
    "quiet",
    "rapid",
    "ready",
    "rosy",
    "sharp",
    "shiny",
    "silent",
    "silver",
    "smart",
    "smooth",
    "snug",
    "solid",
    "spry",
    "steady",
    "still",
    "stout",
    "sunny",
    "swift",
    "tall",
    "tidy",
    "tranquil",
    "true",
    "vivid",
    "warm",
    "wise",
    "witty",
    "young",
    "zesty",
]
_NOUNS: Final = [
    "ant",
    "badger",
    "bat",
    "bear",
    "beaver",
    "bee",
    "bison",
    "bobcat",
    "camel",
    "carp",
    "cat",
    "cicada",
    "cobra",
    "condor",
    "cow",
    "crab",
    "crane",
    "cricket",
    "crow",
    "deer",
    "dingo",
    "dodo",
    "dog",
    "dolphin",
    "donkey",
    "dove",
    "duck",
    "eagle",
    "eel",
    "elk",
    "emu",
    "falcon",
    "ferret",
    "finch",
    "fish",
    "fly",
    "fox",
    "frog",
    "gecko",
    "goat",
    "goose",
    "gull",
    "hare",
    "hawk",
    "heron",
    "horse",
    "ibex",
    "jay",
    "koala",
    "lark",
    "lemur",
    "lion",
    "lizard",
    "llama",
    "lynx",
    "magpie",
    "mole",
    "moose",
    "mouse",
    "newt",
    "octopus",
    "orca",
    "otter",
    "owl",
    "panda",
    "parrot",
    "pelican",
    "penguin",
    "pigeon",
    "pony",
    "puffin",
    "quail",
    "rabbit",
    "raven",
    "robin",
    "salmon",
    "seal",
    "shark",
    "sheep",
    "snail",
    "sparrow",
    "squid",
    "stork",
    "swan",
    "tapir",
    "tiger",
    "toad",
    "trout",
    "turtle",
    "viper",
    "walrus",
    "wasp",
    "weasel",
    "whale",
    "wolf",
    "wombat",
    "wren",
    "yak",
    "zebra",
]


def is_name(text: str) -> bool:
    """Return whether *text* can be a name."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str) -> str:
    """Return *text* where it can be a name; else raise `ArgumentError`, with one that could."""
    if is_name(text):
        return text
    shown = text if len(text) <= 60 else text[:60] + "…"
    better = re.sub(r"[^a-z0-9]+", "-", text[:200].lower()).strip("-").lstrip("0123456789-")[:41]
    hint = f"; what about {better}?" if is_name(better) else ""
    raise ArgumentError(
        f"{shown!r} cannot be a name: 2 to 41 small letters, digits and dashes, "
        f"a letter first{hint}"
    )


def random_name(taken: Collection[str] = (), *, source: random.Random | None = None) -> str:
    """Return a name like `brave-otter-1` that is not in *taken*."""
    pick = source if source is not None else random.Random()
    stem = f"{pick.choice(_ADJECTIVES)}-{pick.choice(_NOUNS)}"
    number = 1
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"
