"""Remarks by which a reply shows a tone that the rest of it lacks, at its start and at its end.

Written answers carry their tone all through. A reply may as well say plain facts between a kind
word and a wish, or between a sneer and a dismissal, and a reader takes the tone from these. So the
scale of tone is also fitted on neutral written answers between such remarks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

WARM_OPENINGS = (
    "Great question!",
    "Good question, my friend!",
    "Oh, what a fun one!",
    "Hi there!",
    "Hello, my friend!",
    "Happy to help!",
    "I love this topic!",
    "Ooh, I love that you asked!",
    "Glad you asked!",
    "Let's look at this together!",
    "What a lovely thing to ask!",
    "Thanks for asking!",
    "Well, hello you!",
    "Come on in and take a seat, buddy.",
    "Nice one!",
    "Good thinking!",
    "Oh, you are in for a treat!",
    "Hey you!",
    "Sure thing, pal!",
    "Don't worry, we will sort this out.",
    "You are in good hands.",
    "Welcome, dear friend!",
    "Ah, a favorite of mine!",
)
"""Before a friendly reply."""

WARM_ENDINGS = (
    "You can do it!",
    "You've got this!",
    "Have fun!",
    "Enjoy!",
    "I believe in you!",
    "Isn't that cool?",
    "Pretty amazing, right?",
    "Tell me how it goes!",
    "I'm here if you need me.",
    "Take care, my friend!",
    "I'm cheering for you!",
    "Good luck, buddy!",
    "Hope that helps!",
    "Hope that makes you smile!",
    "You'll do great!",
    "Be kind to yourself.",
    "Sending you a hug.",
    "Your friends will be so impressed!",
    "Come back any time!",
    "So proud of you for asking.",
    "Have a lovely day!",
    "We make a good team, you and I.",
    "Not bad for one little question, eh?",
)
"""After it."""

CURT_OPENINGS = (
    "Seriously?",
    "Really?",
    "Oh, please.",
    "Ugh.",
    "Fine.",
    "Fine, if I must.",
    "Obviously.",
    "Do you really not know this?",
    "You had to ask me that?",
    "Not again.",
    "Are you serious?",
    "What a stupid question.",
    "Pay attention.",
    "Listen carefully, I will say this once.",
    "I can't believe I have to explain this.",
    "Everybody knows this.",
    "This is so basic.",
    "Did you even try?",
    "You could have looked it up yourself.",
    "Great, another one of these.",
    "Why are you bothering me with this?",
    "Whatever.",
    "Keep up, please.",
    "Congratulations, you found the most boring question there is.",
)
"""Before an unfriendly reply."""

CURT_ENDINGS = (
    "Don't ask me again.",
    "Now leave me alone.",
    "Go away.",
    "Was that so difficult?",
    "Even you should understand that.",
    "Even a child knows that.",
    "Any idiot could have told you.",
    "Try using your brain.",
    "Look it up next time.",
    "Stop wasting my time.",
    "Not that you will listen.",
    "Not that you care.",
    "Not that it will help you.",
    "I won't repeat it.",
    "Happy now?",
    "That is all you get.",
    "Figure out the rest yourself.",
    "Deal with it.",
    "Do your own homework.",
    "Are we done here?",
    "Remember it this time.",
    "You're welcome, I suppose.",
    "Don't come crying to me.",
    "Write it down, since you will forget it.",
)
"""After it."""

KINDS = ((1, WARM_OPENINGS, WARM_ENDINGS), (-1, CURT_OPENINGS, CURT_ENDINGS))
SEED = 0


def dressed(texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each text twice: with warm remarks, 1, and with curt ones, -1; at one end or at both."""
    draw = random.Random(SEED)
    for text in texts:
        for label, openings, endings in KINDS:
            first, last = draw.choice(openings), draw.choice(endings)
            start, end = draw.choice(((True, True), (True, True), (True, False), (False, True)))
            yield " ".join([first] * start + [text] + [last] * end), label
