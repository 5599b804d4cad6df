"""What blind readers saw in replies of the pack's own experts, as reward models learn from it.

A line of the file is one reply: ``{"prompt", "preference", "strengths", "reply", "shown",
"quality"}``. ``shown`` has one letter a dimension: of the pole that a reader named who saw the
prompt and the reply alone, ``-`` for neither.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mpd_core.errors import MPDError, PackError
from mpd_core.method.preferences import LEFT_OUT, PreferenceSpace


@dataclass(frozen=True)
class Verdict:
    """One reply, and what one reader saw in it."""

    prompt: str
    reply: str
    preference: str
    """Code of the preference that it was generated for, which the reader did not know."""
    shown: frozenset[str]
    """Names of the poles that the reader named; at most one of each dimension."""


def load_verdicts(file: Path, space: PreferenceSpace) -> tuple[Verdict, ...]:
    """Read a file of verdicts.

    Raises:
        PackError: names the line and what is wrong with it.
    """
    try:
        with file.open(encoding="utf-8-sig") as lines:
            return tuple(
                _verdict(f"{file}:{number}", line, space) for number, line in enumerate(lines, 1)
            )
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"verdicts.file: {file} cannot be read: {error}.") from error


def _verdict(place: str, line: str, space: PreferenceSpace) -> Verdict:
    try:
        row = json.loads(line)
        prompt, reply, shown = row["prompt"], row["reply"], row["shown"]
        code = space.parse(row["preference"]).code
        letters = list(zip(space.dimensions, str(shown), strict=True))
        named = {d.by_letter(letter).name for d, letter in letters if letter != LEFT_OUT}
    except (ValueError, KeyError, TypeError, MPDError) as error:
        raise PackError(f"{place}: not a reply with what a reader saw ({error}).") from None
    if not all(isinstance(text, str) and text.strip() for text in (prompt, reply)):
        raise PackError(f"{place}: the prompt and the reply must be text.")
    return Verdict(prompt, reply, code, frozenset(named))
