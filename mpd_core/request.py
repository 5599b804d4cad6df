"""What a client asks of the engine: plain values, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mpd_core.errors import RequestError

Role = Literal["system", "user", "assistant"]
Space = Literal["probability", "logit", "strength"]

MAX_MESSAGES = 64
MAX_CHARACTERS = 100_000
MAX_NEW_TOKENS = 4096
MAX_SEED = 2**32 - 1
SHIFTING = ("strength", "settled", "fade", "plausibility")
"""Fields of a request that only the space ``strength`` reads."""

MAX_STRENGTH = 10.0
MAX_FADE = 1000.0


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} is {value!r}: give a whole number from {low} to {high}.")


def _check_float(
    name: str, value: object, low: float, high: float, *, low_open: bool = False
) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number and low <= value <= high  # type: ignore[operator]
    if not fits or (low_open and value == low):
        edge = f"above {low:g} and at most" if low_open else f"from {low:g} to"
        raise RequestError(f"{name} is {value!r}: give a number {edge} {high:g}.")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise RequestError(f"Unknown role '{self.role}': use {', '.join(get_args(Role))}.")
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

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    dry_multiplier: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_int("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        _check_int("seed", self.seed, 0, MAX_SEED)
        _check_float("temperature", self.temperature, 0.0, 5.0)
        _check_float("top_p", self.top_p, 0.0, 1.0, low_open=True)
        _check_float("repetition_penalty", self.repetition_penalty, 1.0, 5.0)
        _check_float("dry_multiplier", self.dry_multiplier, 0.0, 5.0)


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
            _check_int("branch: a token", token, 0, 2**31 - 1)
        if not isinstance(self.lasting, bool):
            raise RequestError(f"branch.lasting is {self.lasting!r:.60}: give true or false.")
        if self.weights is not None and not isinstance(self.weights, tuple):
            raise RequestError("branch.weights: give a list of numbers, one for each expert.")
        for weight in self.weights or ():
            _check_float("branch: a weight", weight, 0.0, 1.0)


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
    strength: float = 1.0
    """B of the space ``strength``: how far experts move the base's text; see ``method.merging``."""
    settled: float = 1.0
    """In that space: the share of the strength that is left in the long run; 1 keeps all of it."""
    fade: float = 25.0
    """In that space: tokens after which 1 - 1/e of what is to go has gone."""
    plausibility: float = 0.0
    """In that space: a token stays possible if some expert, or the base, gives it at least this
    share of the probability of its own likeliest token; 0 keeps every token."""
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
            raise RequestError(f"Unknown space '{self.space}': use one of {known}.")
        _check_float("strength", self.strength, 0.0, MAX_STRENGTH)
        _check_float("settled", self.settled, 0.0, 1.0)
        _check_float("fade", self.fade, 0.0, MAX_FADE, low_open=True)
        _check_float("plausibility", self.plausibility, 0.0, 1.0)
        if self.branch and len(self.branch.prefix) >= self.sampling.max_new_tokens:
            raise RequestError(
                f"The branch begins with {len(self.branch.prefix)} tokens and max_new_tokens is "
                f"{self.sampling.max_new_tokens}: raise it, or branch earlier."
            )
