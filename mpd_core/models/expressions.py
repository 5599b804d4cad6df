"""Regular expressions of strangers: tried elsewhere first, since some never come to an end."""

from __future__ import annotations

import re
from collections.abc import Collection

from mpd_core import apart

FEW = 3
"""So many repetitions of names of some dozens of letters end soon, if none stands in another."""
PATIENCE_S = 10.0
"""Of a processor for all names of a model together, which take milliseconds."""
_TRIAL = """
import json, re, sys
expressions, names = json.load(sys.stdin)
for expression in map(re.compile, expressions):
    for name in names:
        expression.match(name), expression.fullmatch(name)
"""


def endless(expressions: Collection[str], names: Collection[str]) -> bool:
    """Whether matching these expressions with these names takes too long to be waited for.

    Repetitions in repetitions, as in ``(a+)+b``, can double a match's time with each letter, and
    Python cannot break one off: expressions that might are matched in a process of their own.
    """
    doubtful = sorted({expression for expression in expressions if not _ends(expression)})
    return bool(doubtful) and not apart.ends(_TRIAL, [doubtful, sorted(names)], PATIENCE_S)


def _ends(expression: str) -> bool:
    """Whether it is plain to see: few repetitions, and none of a group."""
    return len(re.findall(r"[*+{]", expression)) <= FEW and not re.search(r"\)[*+{]", expression)
