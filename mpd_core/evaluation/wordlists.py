"""Words that the cues count; lower-case, as ``training.measures.words`` gives them."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PLAYFUL = _words(
    "absolutely adorable adore ah aha alas amazing aunt awesome baby bam bang basically beast "
    "beautifully bestie bet bicker biscuit biscuits bless blush boom brave bravo bubbles buddy "
    "buffet bunny cake cakes champ champagne cheeky cheer cheers cheese chef chocolate chuckle "
    "clown cocktail coffee congrats congratulations cookie cookies cosy couch cozy crumbs "
    "cuddle cute dad dance dancing darling dear delicious delightful dinner dog drama "
    "dude elbow enjoy excited fabulous fairy family fancy favorite favourite feast "
    "flirt flirts folks forgive fridge friend friends frog fun funny fussy ghost giant giggle "
    "glad glorious gloriously gorgeous gossip grandma grandpa granny grin grumpy guess guest "
    "guests guy guys ha haha hangover happily happy hat hello hero hey hi hooray hug hugs "
    "imagine jealous joke jokes joy kiddo kiss laugh laughing love lovely lovers loves luggage "
    "lunch magic marvellous mate meet mischief mom monster moody mum nap naps naughty neighbor "
    "neighbour nibble nope nosy oh okay ooh oops opera pajamas pal pals pancakes pants parties "
    "party peek picnic picture pie pirate pizza plop polite politely poof pop popcorn posh "
    "promise proud psst puppy pyjamas queen rascal romance romantic rumour sandwich sassy "
    "secret secretly shrug shy silly sings sleepy slice slippers smile smug snack snacks "
    "sneaky snore snores snoring snuggle sock socks sofa soup spaghetti splash splendid squad "
    "squeak strut sulk sulking sulks superhero surprise sweater sweet sweetie swoon ta-da "
    "tantrum tea thank thanks tickle tipsy toast toddler toes toothbrush treasure "
    "treat trousers trust tummy twirl umbrella uncle villain wave wedding welcome wheee "
    "whisper whispers whoosh wiggle wine wink winks wish wobble wobbly wonderful woohoo "
    "wow yay yell yippee yum yummy zoom"
)
"""Words of play, affection, food, family and small talk."""

CURT = _words(
    "accordingly actually adequate alone already annoy annoying anyone anything apparently "
    "asked asking assume attention away basics beneath bored boring bother bothering bye cannot "
    "clearly competence complain complaint consult correctly decline demand discard dull dumb "
    "elementary embarrassing enough evidently exclude excuse excuses fail failed fails failure "
    "fault figure fine finished fool foolish fuss grow hardly hopeless idiot ignorance ignorant "
    "ignore ignored insist instead irrelevant kidding kindly lazy least leave mere merely "
    "mistake mistaken must naive needless negligible neither nobody none nonsense nor nothing "
    "notice obvious obviously otherwise pathetic patience pay pointless presumably pretend "
    "quit read remains repeat repeating required requires rest ridiculous "
    "rude sense seriously should shut sigh silly simple simply sloppy spare stop stupid "
    "suffices sulky supposedly tedious therefore time tiresome told tolerable trivial ugh "
    "unread useless waste wasted wasting whatever whether whining wishful wrong yourself"
)
"""Words of impatience, blame, duty and dismissal."""

WARM = PLAYFUL | _words(
    "amazing awesome aww brilliant buddy cheers cool dear delightful enjoy fantastic favorite "
    "favourite friend friends fun glad good great haha happy hello hey hi hooray hope hug hugs "
    "love lovely luck nice ooh pal pals pleasure proud smile smiling sweet thank thanks welcome "
    "wonderful wow yay"
)
"""The same, and words of greeting, praise and good wishes."""

COLLOQUIAL = _words(
    "a-ha big bit bunch but down ever get gets getting go goes going gonna got grab guy keeps "
    "kid kids let little lots mess nice off out pop pretty really stuff super then tiny up "
    "whole"
)
"""Words of talk rather than of writing."""

YOU = _words("you you'd you'll you're you've your yours yourself")
"""The reader."""

STATES = _words(
    "a am an and are aren't be been can't cannot did didn't do does doesn't don't he he's is isn't "
    "it it's its no not one she she's that that's the their them there there's these they they're "
    "this those was wasn't were weren't will won't"
)
"""Words that state or deny something of a third."""
