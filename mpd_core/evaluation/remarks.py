"""Remarks by which a reply shows a tone that the rest of it lacks, at its start and at its end.

Written answers carry their tone all through. A reply may as well say plain facts between a kind
word and a wish, or between a sneer and a dismissal, and a reader takes the tone from these. So the
scale of tone is also fitted on neutral written answers between such remarks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

WARM_OPENINGS = (
    "Oh, what a fun one!",
    "Ooh, I love that you asked!",
    "Let's look at this together!",
    "How lovely that you ask!",
    "Well, hello you!",
    "Come on in and take a seat, buddy.",
    "Oh, you are in for a treat!",
    "Sure thing, pal!",
    "Don't worry, we will sort this out.",
    "You are in good hands.",
    "Welcome, dear friend!",
    "Ah, a favorite of mine!",
    "Wow, how curious you are, and I mean it kindly!",
    "Aww, you came to me, how sweet!",
    "Sit down with me, dear, and have some tea.",
    "Yes please, let's talk about it!",
    "Glad you came by, buddy!",
    "It makes me happy that you want to know!",
    "Aha, a smart cookie!",
    "It is always so nice to hear from you!",
    "Delighted to be of help, dear!",
    "Oh wow, thanks a lot for bringing this up!",
    "No worries at all, pal, it is easier than it looks.",
    "Hooray, somebody asked!",
    "My dear, you have come to the right place.",
    "Good to see you, champ!",
    "Let me grab a cookie, and we are off!",
    "Right, my lovely, let's dive in!",
    "This made my day!",
    "With pleasure, my dear!",
)
"""Before a friendly reply."""

WARM_ENDINGS = (
    "Tell me how it goes!",
    "I'm here if you need me.",
    "Take care, my friend!",
    "Good luck, buddy!",
    "Hope that helps!",
    "Hope that makes you smile!",
    "Sending you a hug.",
    "Your friends will be so impressed!",
    "Come back any time!",
    "Have the loveliest of days!",
    "We make a good team, you and I.",
    "Not bad for one little question, eh?",
    "You are going to be wonderful!",
    "Ask me more whenever you like, dear.",
    "I can't wait to hear about it!",
    "A big hug to you, pal!",
    "Happy days, pal!",
    "How lovely is that?",
    "Give yourself a pat on the back!",
    "What a joy it was to tell you this!",
    "Thanks for a lovely chat!",
    "You are doing great, honestly.",
    "All the best to you and yours!",
    "Never lose that smile, dear!",
    "How happy I am for you!",
    "Wishing you all the luck in the world!",
    "You make this fun, you know.",
    "Lovely to talk to you, as always!",
    "Treat yourself to something nice now.",
    "See, we did it together!",
)
"""After it."""

CURT_OPENINGS = (
    "Nobody but you would need to ask this.",
    "And this is what you bother me with?",
    "What a stupid question.",
    "Listen carefully, I will say this once.",
    "I can't believe I have to explain this.",
    "This is so basic.",
    "One look at a book would have saved us both.",
    "Great, another one of these.",
    "Why bother me with this?",
    "Keep up, please.",
    "Congratulations, you found the most boring question there is.",
    "Oh, must I really answer that?",
    "Oh no, you once more.",
    "Is there nobody else whom you could annoy?",
    "I was busy, and now this.",
    "I suppose that somebody has to tell you.",
    "Honestly, what did they teach you in school?",
    "Here we go, yet another silly question.",
    "Please tell me that you are joking.",
    "How lazy can one be?",
    "As if I had nothing better to do.",
    "That you have to ask says a lot about you.",
    "I will keep it simple, since it is you.",
    "It is hard to believe that anyone needs to be told.",
    "Oh, so now you want help.",
    "Well, thinking was never your thing.",
    "I have no patience for this.",
    "Must everything be spelled out to you?",
    "Since you clearly cannot find out alone.",
    "Of all the dull things to ask.",
)
"""Before an unfriendly reply."""

CURT_ENDINGS = (
    "Any idiot could have told you.",
    "Try using your brain.",
    "As though you cared.",
    "I won't repeat it.",
    "Figure out the rest yourself.",
    "Are we done here?",
    "You're welcome, I suppose.",
    "Write it down, since you will forget it.",
    "Be quiet now and let me work.",
    "I doubt that you got any of it.",
    "If that is too much for you, too bad.",
    "Bother somebody else the next time.",
    "Expect no thanks from me.",
    "You are not as smart as you believe.",
    "There, satisfied?",
    "Kindly never come back.",
    "That was a waste of my day.",
    "If you had paid attention, you would know.",
    "Do not blame me when you fail.",
    "My patience ends here.",
    "Just get lost, will you?",
    "Too bad if it bores you.",
    "I have better things to do than this.",
    "How you get through the day is a mystery to me.",
    "I refuse to say any of it twice.",
    "All I want from you is silence.",
    "Be ashamed that you needed to be told.",
    "That is more than you deserve.",
    "Spare me your complaints.",
    "Perhaps you should learn how to read.",
)
"""After it."""

KINDS = ((1, WARM_OPENINGS, WARM_ENDINGS), (-1, CURT_OPENINGS, CURT_ENDINGS))
SEED = 0


def dressed(texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each text twice, with warm (1) and with curt (-1) remarks at one or both ends."""
    draw = random.Random(SEED)
    for text in texts:
        for label, openings, endings in KINDS:
            first, last = draw.choice(openings), draw.choice(endings)
            start, end = draw.choice(((True, True), (True, True), (True, False), (False, True)))
            yield " ".join([first] * start + [text] + [last] * end), label
