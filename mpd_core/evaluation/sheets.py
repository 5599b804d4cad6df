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
from mpd_core.evaluation.judging import pairs_of
from mpd_core.evaluation.record import Row, main_of
from mpd_core.evaluation.written import written
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.training.data import Styled

KEY, RUBRIC = "key.json", "RUBRIC.md"
NEITHER, TIE, BEST = "N", "T", 5
QUALITY, WHOLE = "q", "g"
LONGEST = 1400
CUT = " [...]"

Item = tuple[str, str]
"""What the key says of an item, and the item's text."""

RULES = """\
You judge short texts by reading alone. You know nothing else about them.

SINGLES (singles_J.txt; J is your number): a prompt and one reply. Say what the reply itself shows:
{dimensions}
- {quality} (quality): 1 nonsense or no answer; 2 mostly wrong, rambling or looping; 3 answers in \
part, fluent; 4 good; 5 excellent.
One line each in out_singles_J.jsonl, e.g. {single}

PAIRS (pairs_J.txt): a prompt, WANTED properties by number, and two replies. Say for each property \
by itself which reply has it more: 1, 2 or {tie} (tie); and last {whole}, the better reply for \
someone who wants all of it.
One line each in out_pairs_J.jsonl, e.g. {pair}
"""


def labels(space: PreferenceSpace) -> list[str]:
    """Names of dimensions in verdicts on single replies: initials where those tell them apart."""
    names = [dimension.name for dimension in space.dimensions]
    initials = [name[0] for name in names]
    return initials if len({*initials, QUALITY}) > len(names) else names


def cut(text: str) -> str:
    """What readers see of a text."""
    return text if len(text) < LONGEST else text[:LONGEST] + CUT


def single_text(prompt: str, reply: str) -> str:
    """A single reply as it stands in a sheet."""
    return f"PROMPT: {prompt}\nREPLY: {cut(reply)}"


def pair_ends(prompt: str, first: str, second: str) -> tuple[str, str]:
    """How a pair in a sheet begins and ends; what is wanted stands between."""
    return f"PROMPT: {prompt}\nWANTED: ", f"\nREPLY 1: {cut(first)}\nREPLY 2: {cut(second)}"


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
    for row in (*said.values(), *written(space, answers)):
        yield f"{row['method']}|{row['code']}", single_text(row["prompt"], row["text"])


def _pairs(space: PreferenceSpace, replies: Sequence[Row], draw: random.Random) -> Iterator[Item]:
    methods = list(dict.fromkeys(row["method"] for row in replies))
    for pair in pairs_of(space, replies, methods):
        if pair.first == main_of(methods) and not pair.whole.alike:
            flipped = draw.random() < 0.5
            asked = pair.whole.swapped if flipped else pair.whole
            start, end = pair_ends(asked.prompt, asked.first, asked.second)
            poles = enumerate(space.parse(pair.code).poles, 1)
            wanted = "; ".join(f"({number}) {pole.instruction}" for number, pole in poles)
            yield f"{pair.second}|{pair.code}|{int(flipped)}", f"{start}{wanted}{end}"


def _rubric(space: PreferenceSpace) -> str:
    lines, single = [], {"id": "s0012"}
    for label, dimension in zip(labels(space), space.dimensions, strict=True):
        poles = [f"{dimension.letter(pole)}: {pole.instruction}" for pole in dimension.poles]
        lines.append(f"- {label} ({dimension.name}): {' '.join(poles)} {NEITHER}: none of these.")
        single[label] = NEITHER
    numbers = {str(n): TIE for n in range(1, len(space.dimensions) + 1)}
    return RULES.format(
        dimensions="\n".join(lines),
        quality=QUALITY,
        single=json.dumps({**single, QUALITY: 3}),
        tie=TIE,
        whole=WHOLE,
        pair=json.dumps({"id": "p0007", **numbers, WHOLE: "1"}),
    )
