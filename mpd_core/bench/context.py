"""What every measure works with: options, prompts, competitors, and the checks between them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mpd_core.bench.options import BenchError, BenchOptions
from mpd_core.bench.peer_pool import Competitor, PeerPool
from mpd_core.bench.roofline import Rows, Shapes, roofline, step_cost
from mpd_core.bench.values import PROMPTS, Query, StepLogProbs, Timing
from mpd_core.packs import Pack

CHECK_TOKENS = 8
PROMPT_TOKENS = 48
EXACT = 2e-3
"""Natural log: fp32 sums in another order."""
ROUNDED = 0.1
"""Weights were rounded to fp16: with an adapter merged into them, or out of the engine's blocks."""
HALF = 0.25
"""Activations in bf16 or fp16, 4-bit kernels that depend on the number of rows."""


@dataclass(frozen=True)
class Check:
    """How far a peer's distribution is from the engine's, over the same tokens."""

    peer: str
    max_log_prob_difference: float
    tolerance: float
    same_choice: str


@dataclass
class BenchContext:
    """One run of the bench, on the bench's own pack.

    ``info`` is the engine's own description; ``llama_lacks`` what llama.cpp lacks to be a peer.
    """

    options: BenchOptions
    pack: Pack
    shapes: Shapes
    pool: PeerPool
    info: Mapping[str, Any]
    tell: Callable[[str], None]
    llama_lacks: str | None = None
    checks: list[Check] = field(default_factory=list)
    _rates: dict[tuple[Any, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.on_cpu = self.info["device"] == "cpu"
        self.precision = str(self.info["precision"])
        self.mergeable = not self.precision.startswith("nf4")  # not to be quantised anew
        self.experts = len(self.pack.space.dimensions)  # of one request
        # Before a row's next token, about: half of a reply after a short prompt.
        self.context = PROMPT_TOKENS + self.options.tokens // 2
        wanted = self.options.fp32_peers and self.on_cpu and self.precision != "fp32"
        # Whether peers run in plain fp32, with what a label then ends in.
        self.peer_precisions = {False: "", True: ".fp32"} if wanted else {False: ""}

    def get(self, kind: str, *, fp32: bool = False) -> Competitor:
        return self.pool.get(kind, fp32=fp32)

    def ask(self, number: int = 0, *, preference: str | None = None, method: str = "mpd") -> Query:
        """A request; without a preference, the first of the pack."""
        return Query(PROMPTS[number % len(PROMPTS)], preference or "A" * self.experts, method)

    def crowd(self, count: int, method: str) -> tuple[Query, ...]:
        """Requests with random preferences: the same ones for every method."""
        draw, codes = random.Random(self.options.seed), [p.code for p in self.pack.space]
        asks = ((k, draw.choice(codes)) for k in range(count))
        return tuple(self.ask(k, preference=code, method=method) for k, code in asks)

    def take_turns(self, contests: Mapping[str, Callable[[], Timing]]) -> dict[str, list[Timing]]:
        """Time each ``repeats`` times, in turn, after a round that does not count."""
        self.tell(f"Timing {', '.join(contests)}.")
        rounds = [
            {name: run() for name, run in contests.items()} for _ in range(1 + self.options.repeats)
        ]
        return {name: [one[name] for one in rounds[1:]] for name in contests}

    def check(
        self, label: str, peer: Competitor, scheme: str, ask: Query, *, rounded: bool = False
    ) -> None:
        """Hold a peer to the engine's distributions, on the engine's own tokens.

        Raises:
            BenchError: they differ by more than their arithmetic explains.
        """
        said: StepLogProbs = self.get("engine").call(
            "said", ask, min(CHECK_TOKENS, self.options.tokens)
        )
        heard: StepLogProbs = peer.call("replay", scheme, ask, said)
        merged = rounded and self.precision.startswith("fp16")
        unpacked = self.precision.startswith("blocks") and not label.endswith(".fp32")
        exact = ROUNDED if merged or unpacked else EXACT
        check = compare(label, said, heard, exact if self.on_cpu else HALF)
        self.checks.append(check)
        if not check.max_log_prob_difference <= check.tolerance:
            raise BenchError(
                f"'{label}' does not give the engine's distribution: log-probabilities differ by "
                f"{check.max_log_prob_difference:.2g}, and {check.tolerance:g} is the most."
            )

    def least(self, rows: Rows) -> dict[str, Any]:
        """What a step of such rows must do, and the time that this takes here at least."""
        bandwidth, rate = self.rate("bandwidth"), self.rate("product_rate", rows.all)
        cost = step_cost(self.shapes, rows, self.precision, cpu=self.on_cpu)
        least, binds = roofline(cost, bandwidth, rate)
        found = {"rows": rows.all, "floor_ms": least, "bound_by": binds}
        return found | {"bytes": cost[0], "operations": cost[1], "gflops_at_rows": rate / 1e9}

    def rate(self, *probe: Any) -> float:
        """A rate of the machine, measured once."""
        if probe not in self._rates:
            self._rates[probe] = float(self.get("machine").call(*probe))
        return self._rates[probe]


def compare(label: str, said: StepLogProbs, heard: StepLogProbs, tolerance: float) -> Check:
    """Largest difference of a candidate's log-probability, over all steps."""
    steps = [(ours, theirs) for (_, ours), (_, theirs) in zip(said, heard, strict=True)]
    differences = [abs(ours[token] - theirs[token]) for ours, theirs in steps for token in ours]
    # A NaN is no agreement, and max() could lose it.
    worst = max(differences) if all(d == d for d in differences) else float("nan")
    same = sum(a == b for (a, _), (b, _) in zip(said, heard, strict=True))
    return Check(label, worst, tolerance, f"{same} of {len(said)}")
