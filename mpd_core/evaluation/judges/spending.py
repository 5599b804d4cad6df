"""Cost of judging: an estimate before it starts, and a cap that stops it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpd_core.errors import MPDError, RequestError

CHARACTERS = 3.0
"""Characters per token for estimates; low, so that estimates are not too low."""
OVERHEAD = 8
"""Tokens that a chat template adds to a message."""
Tokens = tuple[int, int]
"""In and out."""


@dataclass(frozen=True)
class Limits:
    """Limits set by the user."""

    tokens: int = 2_000_000
    """Input and output tokens together."""
    cost: float | None = None
    """In the currency of the prices."""
    prices: tuple[float, float] | None = None
    """Price of a million input and output tokens."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise RequestError("--most-tokens: give a number from 1.")
        if self.cost is not None and not self.cost >= 0:  # a cap that is no number would never hold
            raise RequestError("--most-cost: give a number from 0.")
        if self.cost is not None and self.prices is None:
            raise RequestError("--most-cost needs --price IN,OUT, of a million tokens each.")
        if self.prices and not all(0 <= price < 1e6 for price in self.prices):
            raise RequestError("--price: give two numbers from 0, e.g. --price 0.15,0.6.")

    def price(self, tokens: Tokens) -> float:
        """Of this many tokens."""
        return sum(n * price for n, price in zip(tokens, self.prices or (0, 0), strict=True)) / 1e6

    def over(self, tokens: Tokens) -> bool:
        """Whether this many tokens exceed the limits."""
        dear = self.cost is not None and self.price(tokens) > self.cost
        return dear or sum(tokens) > self.tokens

    def estimate(self, each: Sequence[Tokens]) -> str:
        """A sentence on what questions cost at most.

        Raises:
            RequestError: more than is allowed.
        """
        total = added(*each)
        cost = f", {self.price(total):.2f} by the prices" if self.prices else ""
        said = f"{len(each):,} questions, about {total[0]:,} tokens in and at most {total[1]:,} out"
        if self.over(total):
            raise RequestError(
                f"{said}{cost}: more than the cap allows; raise --most-tokens or --most-cost, or "
                "ask less with --pairs and --methods."
            )
        return said + cost + "."


class Spending:
    """Account of tokens spent, and of those that answers under way may cost at most."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent: Tokens = (0, 0)
        self._reserved: list[Tokens] = []

    def reserve(self, most: Tokens) -> None:
        """Before asking: what the answer may cost at most.

        Raises:
            MPDError: with what is still under way it could go over the cap.
        """
        if self.limits.over(added(self.spent, most, *self._reserved)):
            raise MPDError(
                f"The judge has used {sum(self.spent):,} tokens and another answer could go over "
                "the cap: verdicts so far are stored; raise --most-tokens or --most-cost and judge "
                "again to go on."
            )
        self._reserved.append(most)

    def settle(self, most: Tokens, used: Tokens) -> None:
        """After the answer, or its failure: what it did cost, whatever it was to cost at most."""
        self._reserved.remove(most)
        self.spent = added(self.spent, used)


def added(*several: Tokens) -> Tokens:
    """Their sum."""
    return sum(one for one, _ in several), sum(other for _, other in several)


def tokens_of(texts: Iterable[str]) -> int:
    """About how many tokens messages have."""
    return sum(round(len(text) / CHARACTERS) + OVERHEAD for text in texts)
