"""Sheets for blind readers: single replies and pairs, without method or preference, in any order.

A folder of them holds ``key.json``, which no reader may see, and for each reader J the files
``singles_J.txt`` and ``pairs_J.txt``; his verdicts are ``out_singles_J.jsonl`` and
``out_pairs_J.jsonl``, as ``RUBRIC.md`` says, and ``readers`` reads them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpd_core.errors import RequestError
from mpd_core.evaluation.judging import Pair, pairs_of
from mpd_core.evaluation.record import Row, main_of
from mpd_core.evaluation.written import written
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.rendering import rendered
from mpd_core.training.data import Styled

KEY, RUBRIC = "key.json", "RUBRIC.md"
NEITHER, TIE, BEST = "N", "T", 5
QUALITY, WHOLE = "q", "g"
LONGEST = 1400
CUT = " [...]"

Item = tuple[str, str]
"""What the key says of an item, and the item's text."""


def labels(space: PreferenceSpace) -> list[str]:
    """Names of dimensions in verdicts on single replies: initials where those tell them apart."""
    names = [dimension.name for dimension in space.dimensions]
    initials = [name[0] for name in names]
    return initials if len({*initials, QUALITY}) > len(names) else names


def cut(text: str) -> str:
    """What readers see of a text."""
    return text if len(text) < LONGEST else text[:LONGEST] + CUT


def single_item(row: Row) -> Item:
    """A single reply as it stands in a sheet."""
    text = f"PROMPT: {row['prompt']}\nREPLY: {cut(row['text'])}"
    return f"{row['method']}|{row['code']}", text


def pair_item(space: PreferenceSpace, pair: Pair, flipped: bool) -> Item:
    """A pair as it stands in a sheet; ``flipped``: the second reply stands first."""
    asked = pair.whole.swapped if flipped else pair.whole
    poles = enumerate(space.parse(pair.code).poles, 1)
    wanted = "; ".join(f"({number}) {pole.instruction}" for number, pole in poles)
    replies = f"REPLY 1: {cut(asked.first)}\nREPLY 2: {cut(asked.second)}"
    text = f"PROMPT: {asked.prompt}\nWANTED: {wanted}\n{replies}"
    return f"{pair.second}|{pair.code}|{int(flipped)}", text


def write_sheets(
    space: PreferenceSpace,
    replies: Sequence[Row],
    answers: Sequence[Styled],
    folder: Path,
    readers: int,
    seed: int,
) -> int:
    """Write the sheets of a run: all replies, and the main method's pairs with every other one.

    Written ``answers`` are mixed in, and all is dealt to so many ``readers``, in an order by whose
    ``seed`` two rounds on the same texts are told apart.

    Returns:
        The number of items.

    Raises:
        RequestError: the folder has a key already, whose sheets may be with readers.
    """
    if (folder / KEY).exists():
        raise RequestError(f"{folder}: holds sheets already: name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    kinds = {"singles": _singles(space, replies, answers), "pairs": _pairs(space, replies, draw)}
    key: dict[str, str] = {}
    for kind, found in kinds.items():
        items = list(found)
        draw.shuffle(items)
        named = [(f"{kind[0]}{number:04d}", *item) for number, item in enumerate(items)]
        key |= {name: source for name, source, _ in named}
        for reader in range(readers):
            text = "".join(f"=== {name}\n{shown}\n\n" for name, _, shown in named[reader::readers])
            (folder / f"{kind}_{reader}.txt").write_text(text, encoding="utf-8")
    (folder / RUBRIC).write_text(_rubric(space), encoding="utf-8")
    (folder / KEY).write_text(json.dumps(key), encoding="utf-8")
    return len(key)


def _singles(
    space: PreferenceSpace, replies: Sequence[Row], answers: Sequence[Styled]
) -> Iterator[Item]:
    said: dict[tuple[str, str, str], Row] = {}
    for row in replies:  # one that has no preference is read once
        said.setdefault((row["method"], row["prompt"], row["text"]), row)
    return map(single_item, (*said.values(), *written(space, answers)))


def _pairs(space: PreferenceSpace, replies: Sequence[Row], draw: random.Random) -> Iterator[Item]:
    methods = list(dict.fromkeys(row["method"] for row in replies))
    for pair in pairs_of(space, replies, methods):
        if pair.first == main_of(methods) and not pair.whole.alike:
            yield pair_item(space, pair, flipped=draw.random() < 0.5)


def _rubric(space: PreferenceSpace) -> str:
    """What readers are told: what to look for, and how a line of theirs reads."""
    names = labels(space)
    numbers = {str(n): TIE for n in range(1, len(space.dimensions) + 1)}
    return rendered(
        "rubric.md",
        dimensions=zip(names, space.dimensions, strict=True),
        single=json.dumps({"id": "s0012", **dict.fromkeys(names, NEITHER), QUALITY: 3}),
        pair=json.dumps({"id": "p0007", **numbers, WHOLE: "1"}),
        neither=NEITHER,
        quality=QUALITY,
        tie=TIE,
        whole=WHOLE,
    )
