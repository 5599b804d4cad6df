"""Remarks by which a reply shows a tone that the rest of it lacks, at its start and at its end.

Written answers carry their tone all through. A reply may as well say plain facts between a kind
word and a wish, or between a sneer and a dismissal, and a reader takes the tone from these. So the
scale of tone is also fitted on neutral written answers between such remarks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

_REMARKS = json.loads(Path(__file__).with_name("remarks.json").read_text(encoding="utf-8"))
KINDS: tuple[tuple[int, list[str], list[str]], ...] = tuple(
    (label, _REMARKS[kind]["openings"], _REMARKS[kind]["endings"])
    for label, kind in ((1, "warm"), (-1, "curt"))
)
"""End of the scale, with what stands before a text and after it."""
SEED = 0


def dressed(texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each text twice, with warm (1) and with curt (-1) remarks at one or both ends."""
    draw = random.Random(SEED)
    for text in texts:
        for label, openings, endings in KINDS:
            first, last = draw.choice(openings), draw.choice(endings)
            start, end = draw.choice(((True, True), (True, True), (True, False), (False, True)))
            yield " ".join([first] * start + [text] + [last] * end), label
