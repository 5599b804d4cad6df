"""Kinds of tokens: content words, function words, punctuation, or other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

Kind = Literal["content word", "function word", "punctuation", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_ENGLISH = """
    a an the this that these those some any each every either neither no such both all few many
    much more most other another own same what which who whom whose
    i me my mine myself you your yours yourself yourselves he him his himself she her hers herself
    it its itself we us our ours ourselves they them their theirs themselves one ones someone
    somebody something anyone anybody anything everyone everybody everything nobody nothing none
    am is are was were be been being do does did doing done have has had having can could may might
    must shall should will would ought
    about above across after against along among around as at before behind below beneath beside
    besides between beyond by despite down during except for from in inside into like near of off
    on onto out outside over past per since through throughout till to toward towards under until
    up upon via with within without
    and but or nor so yet if because although though while whereas unless than whether when
    whenever where wherever how why then there here
    not n't very too also just only even still again ever never
    further once
    i'm i've i'd i'll you're you've you'd you'll he's he'd he'll she's she'd she'll it's it'd it'll
    we're we've we'd we'll they're they've they'd they'll that's there's here's what's who's let's
    isn't aren't wasn't weren't don't doesn't didn't haven't hasn't hadn't can't cannot couldn't
    mustn't shouldn't won't wouldn't
"""
FUNCTION_WORDS = frozenset(_ENGLISH.split())
"""English words that hold sentences together. Words of other languages count as content."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def kinds(texts: Sequence[str]) -> list[Kind]:
    """The kind of each token of a reply; a token of several pieces has the kind of its longest.

    Args:
        texts: what each token adds to the reply; a word may be spread over several.
    """
    whole = "".join(texts)
    spans = [(match.start(), match.end()) for match in _WORD.finditer(whole)]
    found: list[Kind] = []
    start, first = 0, 0
    for text in texts:
        end = start + len(text)
        while first < len(spans) and spans[first][1] <= start:
            first += 1
        found.append(_kind(text, _longest(spans, first, start, end), whole))
        start = end
    return found


def _longest(
    spans: Sequence[tuple[int, int]], first: int, start: int, end: int
) -> tuple[int, int] | None:
    """The word with the most letters between two character positions."""
    best, most = None, 0
    for span in spans[first:]:
        if span[0] >= end:
            break
        shared = min(end, span[1]) - max(start, span[0])
        if shared > most:
            best, most = span, shared
    return best


def _kind(text: str, span: tuple[int, int] | None, whole: str) -> Kind:
    if span is None:
        return "punctuation" if text.strip() else "other"
    word = whole[span[0] : span[1]].replace("’", "'").lower()
    return "function word" if word in FUNCTION_WORDS else "content word"
