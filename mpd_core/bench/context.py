"""What every measure works with: options, prompts, competitors, and the checks between them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mpd_core.bench.material import PROMPTS, Shapes
from mpd_core.bench.options import BenchError, BenchOptions
from mpd_core.bench.peer_pool import Competitor, PeerPool, take_turns
from mpd_core.bench.values import Ask, Replayed, Run, Said, Spread
from mpd_core.packs import Pack

CHECK_TOKENS = 8
PROMPT_TOKENS = 48
EXACT = 2e-3
"""Natural log: fp32 sums in another order."""
ROUNDED = 0.1
"""Weights with an adapter merged into them were rounded to fp16 once more."""
HALF = 0.25
"""Activations in bf16 or fp16, 4-bit kernels that depend on the number of rows."""


@dataclass(frozen=True)
class Check:
    """How far a peer's distribution is from the engine's, over the same tokens."""

    peer: str
    max_log_prob_difference: float
    tolerance: float
    same_choice: str
    """Steps at which both find the same token likeliest."""
    disagreement: float
    """Of the experts, nats: where they all say the same, equality would prove little."""


@dataclass
class BenchContext:
    """One run of the bench."""

    options: BenchOptions
    pack: Pack
    """The bench's own."""
    shapes: Shapes
    field: PeerPool
    info: Mapping[str, Any]
    """The engine's own description."""
    tell: Callable[[str], None]
    checks: list[Check] = dataclasses.field(default_factory=list)
    _rates: dict[int, float] = dataclasses.field(default_factory=dict)
    _bandwidth: float | None = None

    @property
    def on_cpu(self) -> bool:
        return bool(self.info["device"] == "cpu")

    @property
    def precision(self) -> str:
        return str(self.info["precision"])

    @property
    def mergeable(self) -> bool:
        """Whether adapters can be merged into weights without quantising those anew."""
        return not self.precision.startswith("nf4")

    @property
    def peer_precisions(self) -> tuple[bool, ...]:
        """False: the engine's own precision; True: plain fp32, too."""
        own_is_fp32 = self.precision == "fp32"
        wanted = self.options.fp32_peers and self.on_cpu and not own_is_fp32
        return (False, True) if wanted else (False,)

    @property
    def context(self) -> int:
        """Tokens before a row's next one, about: half of a reply after a short prompt."""
        return PROMPT_TOKENS + self.options.tokens // 2

    def get(self, kind: str, *, fp32: bool = False) -> Competitor:
        return self.field.get(kind, fp32=fp32)

    def ask(self, number: int = 0, *, preference: str | None = None, method: str = "mpd") -> Ask:
        """A request; without a preference, the first of the pack."""
        first = "A" * len(self.pack.space.dimensions)
        return Ask(PROMPTS[number % len(PROMPTS)], preference or first, method)

    def crowd(self, count: int, method: str) -> tuple[Ask, ...]:
        """Requests with random preferences: the same ones for every method."""
        draw, codes = random.Random(self.options.seed), [p.code for p in self.pack.space]
        return tuple(
            self.ask(k, preference=draw.choice(codes), method=method) for k in range(count)
        )

    def take_turns(self, contests: Mapping[str, Callable[[], Run]]) -> dict[str, list[Run]]:
        self.tell(f"Timing {', '.join(contests)}.")
        return take_turns(contests, self.options)

    def check(
        self,
        label: str,
        peer: Competitor,
        ask: Ask,
        *,
        scheme: str | None = None,
        rounded: bool = False,
    ) -> None:
        """Hold a peer to the engine's distributions, on the engine's own tokens.

        Raises:
            BenchError: they differ by more than their arithmetic explains.
        """
        tokens = min(CHECK_TOKENS, self.options.tokens)
        said: Said = self.get("engine").call("said", ask, tokens)
        heading = (scheme, ask) if scheme else (ask,)
        heard: Replayed = peer.call("replay", *heading, said.tokens, said.candidates)
        check = compare(label, said, heard, self._tolerance(rounded))
        self.checks.append(check)
        if not check.max_log_prob_difference <= check.tolerance:
            raise BenchError(
                f"'{label}' does not give the engine's distribution: log-probabilities differ by "
                f"{check.max_log_prob_difference:.2g}, and {check.tolerance:g} is the most."
            )

    def bandwidth(self) -> float:
        """Bytes a second, measured once."""
        if self._bandwidth is None:
            self._bandwidth = float(self.get("machine").call("bandwidth"))
        return self._bandwidth

    def product_rate(self, rows: int) -> float:
        """Floating point operations a second at so many rows, measured once."""
        if rows not in self._rates:
            self._rates[rows] = float(self.get("machine").call("product_rate", rows))
        return self._rates[rows]

    def checks_as_dicts(self) -> list[dict[str, Any]]:
        return [asdict(check) for check in self.checks]

    def _tolerance(self, rounded: bool) -> float:
        if not self.on_cpu:
            return HALF
        return ROUNDED if rounded and self.precision.startswith("fp16") else EXACT


def compare(label: str, said: Said, heard: Replayed, tolerance: float) -> Check:
    """Largest difference of a log-probability, or of an entropy, over all steps."""
    pairs = [
        (ours, theirs)
        for step, other in zip(said.log_probs, heard.log_probs, strict=True)
        for ours, theirs in zip(step, other, strict=True)
    ]
    pairs += zip(said.entropies, heard.entropies, strict=True)
    differences = [abs(ours - theirs) for ours, theirs in pairs]
    # A NaN is no agreement, and max() could lose it.
    worst = max(differences) if all(d == d for d in differences) else float("nan")
    same = sum(a == b for a, b in zip(said.tokens, heard.best, strict=True))
    return Check(label, worst, tolerance, f"{same} of {len(said.tokens)}", said.disagreement)


def ratio(over: Spread, under: Spread) -> float:
    """Of two medians."""
    return over.median / under.median
