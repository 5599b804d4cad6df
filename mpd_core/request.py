"""What a client asks of the engine: plain values, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mpd_core.errors import RequestError
from mpd_core.fields import Number, check_numbers, number, numbers_of

Role = Literal["system", "user", "assistant"]
Space = Literal["probability", "logit", "strength"]

MAX_MESSAGES = 64
MAX_CHARACTERS = 100_000
MAX_NEW_TOKENS = 4096
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            known = ", ".join(get_args(Role))
            raise RequestError(f"Unknown role '{self.role!s:.60}': use {known}.")
        if not isinstance(self.content, str):
            raise RequestError("A message's content must be text.")
        try:
            self.content.encode("utf-8")
        except UnicodeEncodeError:
            raise RequestError(
                "The text holds half a surrogate pair: send valid Unicode."
            ) from None


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the merged distribution; temperature 0 is greedy."""

    max_new_tokens: int = number(
        128, 1, MAX_NEW_TOKENS, "Most tokens of a reply.", title="Longest reply"
    )
    temperature: float = number(0.0, 0.0, 5.0, "0 always takes the likeliest token.")
    top_p: float = number(
        1.0, 0.0, 1.0, "Draw from the likeliest tokens of this mass.", above=True, title="Top-p"
    )
    repetition_penalty: float = number(1.0, 1.0, 5.0, "On words that occurred; 1 is none.")
    dry_multiplier: float = number(
        0.0, 0.0, 5.0, "On repeating whole sequences (DRY); 0 is none.", title="Loop penalty"
    )
    seed: int = number(0, 0, MAX_SEED, "The same seed draws the same.")

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True)
class Branch:
    """Where a reply leaves another one: the tokens that both begin with, and what differs then.

    With nothing but a prefix the reply goes on as the other did: the request's generator is taken
    to where it stood, so the same tokens are drawn.
    """

    prefix: tuple[int, ...] = ()
    """Token ids that the reply begins with. They count towards ``max_new_tokens``, penalties see
    them, and they get no step records: the first step's index is their number."""
    token: int | None = None
    """The token that comes next, whatever is drawn."""
    weights: tuple[float, ...] | None = None
    """On the simplex, one an expert of the method, in its order, in place of the method's own."""
    lasting: bool = False
    """Whether these weights hold for every token that follows, or only for the next one."""

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, tuple) or len(self.prefix) >= MAX_NEW_TOKENS:
            raise RequestError(f"branch.prefix: give a list of fewer than {MAX_NEW_TOKENS} tokens.")
        for token in (*self.prefix, *(() if self.token is None else (self.token,))):
            if type(token) is not int or not 0 <= token < 2**31:
                raise RequestError(f"branch: a token is {token!r:.60}: give a token's id.")
        if not isinstance(self.lasting, bool):
            raise RequestError(f"branch.lasting is {self.lasting!r:.60}: give true or false.")
        if self.weights is not None and not isinstance(self.weights, tuple):
            raise RequestError("branch.weights: give a list of numbers, one for each expert.")
        for weight in self.weights or ():
            if type(weight) not in (int, float) or not 0 <= weight <= 1:
                raise RequestError(f"branch: a weight is {weight!r:.60}: give one from 0 to 1.")


@dataclass(frozen=True)
class GenerationRequest:
    """A conversation that ends with the user's turn, a preference code, a method and its settings.

    Whether the code, the method and the prompt's length fit a pack is checked by the engine that
    holds the pack; everything that can be checked without one is checked here.
    """

    messages: tuple[Message, ...]
    preference: str
    method: str = "mpd"
    space: Space = "probability"
    sampling: Sampling = Sampling()
    strength: float = number(
        1.0, 0.0, 10.0, "B of the space strength: how far experts move the text."
    )
    """Of the base's text; see ``method.merging``."""
    settled: float = number(
        1.0, 0.0, 1.0, "Share of it that is left in the long run.", title="Strength that stays"
    )
    fade: float = number(
        25.0, 0.0, 1000.0, "Tokens over which the strength fades to that share.", above=True
    )
    """After so many, 1 - 1/e of what is to go has gone."""
    plausibility: float = number(
        0.0, 0.0, 1.0, "Floor of that space: share of an expert's likeliest token's probability."
    )
    """A token stays possible if some expert, or the base, gives it at least this share of the
    probability of its own likeliest token; 0 keeps every token."""
    branch: Branch | None = None
    """Where the reply leaves another one; None begins at its beginning."""

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "user":
            raise RequestError("The conversation must end with the user's message.")
        if not self.messages[-1].content.strip():
            raise RequestError("The prompt is empty: type an instruction.")
        if len(self.messages) > MAX_MESSAGES:
            raise RequestError(f"More than {MAX_MESSAGES} turns: start a new conversation.")
        if sum(len(m.content) for m in self.messages) > MAX_CHARACTERS:
            raise RequestError(f"The prompt is over {MAX_CHARACTERS:,} characters: shorten it.")
        if self.space not in get_args(Space):
            known = ", ".join(get_args(Space))
            raise RequestError(f"Unknown space '{self.space!s:.60}': use one of {known}.")
        check_numbers(self)
        if self.branch and len(self.branch.prefix) >= self.sampling.max_new_tokens:
            raise RequestError(
                f"The branch begins with {len(self.branch.prefix)} tokens and max_new_tokens is "
                f"{self.sampling.max_new_tokens}: raise it, or branch earlier."
            )


SHIFTING = tuple(numbers_of(GenerationRequest))
"""Numbers of a request that only the space ``strength`` reads."""
NUMBERS: dict[str, Number] = {**numbers_of(GenerationRequest), **numbers_of(Sampling)}
"""All that a client may set: the one list of the page, ``/generate`` and the command line."""
