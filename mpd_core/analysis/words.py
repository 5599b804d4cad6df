"""Kinds of tokens: content words, function words, punctuation, or other."""

from __future__ import annotations

import re
from collections import Counter
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
    words = {
        place: (match.start(), match.group())
        for match in _WORD.finditer("".join(texts))
        for place in range(*match.span())
    }
    found: list[Kind] = []
    start = 0
    for text in texts:
        own = Counter(words[k] for k in range(start, start + len(text)) if k in words)
        start += len(text)
        if own:
            ((_, word), _), *_ = own.most_common(1)
            plain = word.replace("’", "'").lower() in FUNCTION_WORDS
            found.append("function word" if plain else "content word")
        else:
            found.append("punctuation" if text.strip() else "other")
    return found
