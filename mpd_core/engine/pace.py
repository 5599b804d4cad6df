"""How many threads compute, as measured: beside busy neighbours fewer are often faster.

The threads of a step meet after every loop, some hundred times a step. Where another program keeps
one of them from its core, all others wait there, so two threads can be ten times as slow as one.
So once in a while a few steps run on another number of threads, and the faster number stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from mpd_core.models.linear import Bf16Linear
from mpd_core.models.rows import RowModel
from mpd_core.models.threads import use_threads

FIRST_REST, MOST_REST = 1.0, 10.0
"""Seconds of steps between trials; doubled whenever a trial changed nothing."""
DEAREST, LONGEST_REST = 0.02, 60.0
"""Most of all time that trials may take; and the longest rest for its sake."""
PAIRS, FEWEST = 4, 2
"""Steps on either number, in turn; a clear result needs fewer."""
GAIN = 0.95
"""The most that the challenger may take of the other's time."""
CLEAR, SURE = 0.6, 0.25
"""One's share of the other's time that ends a trial early, and after the first pair."""


class _Trial:
    """Steps of the same work on two numbers of threads in turn, the challenger's last."""

    def __init__(self, threads: int, challenger: int, work: Hashable) -> None:
        self.numbers, self.work = (threads, challenger), work
        self.seconds = [0.0, 0.0]
        self._steps = 0

    @property
    def number(self) -> int:
        """Of the next step."""
        return self.numbers[self._steps % 2]

    def note(self, seconds: float) -> None:
        self.seconds[self._steps % 2] += seconds
        self._steps += 1

    @property
    def won(self) -> bool | None:
        """Whether the challenger is faster; None while that is open."""
        pairs, odd = divmod(self._steps, 2)
        if odd or not pairs:
            return None
        usual, other = self.seconds
        if CLEAR * other > usual:  # a mistake costs little: there will be another trial
            return False
        enough = CLEAR if pairs >= FEWEST else SURE  # of starved threads a step may take seconds
        if pairs >= PAIRS or other < enough * usual:
            return other < GAIN * usual
        return None


class Pace:
    """The number of threads of one worker, which alone may call this."""

    def __init__(
        self,
        most: int,
        use: Callable[[int], None] = use_threads,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with all threads; ``use`` has the caller's products and loops run on so many."""
        self.threads = most
        """Of steps, and of prefills between them."""
        self._most, self._use, self._clock = most, use, clock
        self._trial: _Trial | None = None
        self._rest, self._rested, self._tried = FIRST_REST, 0.0, 0
        self._last: tuple[Hashable, float] = (None, 0.0)

    @classmethod
    def of(cls, lanes: Mapping[str, RowModel]) -> Pace:
        """For models: one number where another would give other bits, or not be faster."""
        products = (product for lane in lanes.values() for product in lane.products())
        parts = [part for product in products for part in product.modules()]
        bound = any(isinstance(part, nn.Linear | Bf16Linear) for part in parts)
        same_bits = not bound and all(lane.alike for lane in lanes.values())
        return cls(torch.get_num_threads() if same_bits else 1)

    @contextmanager
    def step(self, work: Hashable) -> Iterator[None]:
        """Run a step on as many threads as its turn asks for, and learn from its time.

        Args:
            work: equal for steps that should take the same time.
        """
        if self._most == 1:
            yield
            return
        if self._trial and self._trial.work != work:
            self._trial = None  # begun again with the next step
        if not self._trial and self._rested >= self._rest:
            # Half, one less, one more and all of the threads take turns.
            now, most = self.threads, self._most
            others = {max(1, now // 2), max(1, now - 1), min(most, now + 1), most} - {now}
            challenger = sorted(others)[self._tried % len(others)]
            self._trial = _Trial(now, challenger, work)
            if self._last[0] == work:  # half of the first pair is there already
                self._trial.note(self._last[1])
        number = self._trial.number if self._trial else self.threads
        self._use(number)
        begun = self._clock()
        try:
            yield
        finally:
            if number != self.threads:
                self._use(self.threads)
        self._learn(work, self._clock() - begun)

    def _learn(self, work: Hashable, seconds: float) -> None:
        trial = self._trial
        if trial is None:
            self._rested += seconds
            self._last = work, seconds
            return
        trial.note(seconds)
        if (won := trial.won) is None:
            return
        self._trial, self._rested = None, 0.0
        self._tried += 1
        # The slower number will be tried again, and its steps may take seconds.
        price = min(trial.seconds[not won] / DEAREST, LONGEST_REST)
        if won:
            self.threads, self._rest = trial.numbers[1], FIRST_REST
            self._use(self.threads)
        self._rest = max(min(2 * self._rest, MOST_REST), price)
