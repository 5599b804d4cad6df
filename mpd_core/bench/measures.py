"""One request: MPD beside one plain model, and beside other ways to run several experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpd_core.bench.context import BenchContext, ratio
from mpd_core.bench.values import Ask, Figure, Run, Section, Spread

NOCACHE_TOKENS = 8


def tax(bench: BenchContext) -> Section:
    """What MPD costs over one plain model."""
    mpd, vanilla = bench.ask(), bench.ask(method="vanilla")
    engine, plain = bench.get("engine"), bench.get("plain", fp32=bench.on_cpu)
    bench.check("generate", plain, vanilla)
    tokens, precision = bench.options.tokens, " in fp32" if bench.on_cpu else ""
    runs = bench.take_turns(
        {
            "mpd": lambda: engine.call("decode", (mpd,), tokens),
            "vanilla": lambda: engine.call("decode", (vanilla,), tokens),
            "generate": lambda: plain.call("decode", (vanilla,), tokens),
        }
    )
    ms = per_token(runs)
    return Section(
        (
            Figure("tax.a", ratio(ms["mpd"], ms["vanilla"]), "MPD / one plain model, this engine"),
            Figure("tax.b", ratio(ms["mpd"], ms["generate"]), f"MPD / generate{precision}"),
        ),
        {"ms_per_token": spreads(ms)},
    )


def fairness(bench: BenchContext) -> Section:
    """A plain model before the others have started, and among them."""
    tokens, ask = bench.options.tokens, bench.ask(method="vanilla")

    def run() -> Run:
        run: Run = bench.get("plain", fp32=bench.on_cpu).call("decode", (ask,), tokens)
        return run

    alone = [run().ms_per_token for _ in range(1 + bench.options.repeats)][1:]
    bench.get("engine").call("decode", (bench.ask(),), tokens)
    among = [run().ms_per_token for _ in range(1 + bench.options.repeats)][1:]
    ms = {"alone": Spread.of(alone), "among": Spread.of(among)}
    meaning = "a plain model among the others / alone: 1 is fair"
    return Section(
        (Figure("fairness", ratio(ms["among"], ms["alone"]), meaning),),
        {"ms_per_token": spreads(ms)},
    )


def vs_mod(bench: BenchContext) -> Section:
    """Against one forward an expert: by setting adapters, and with separate models."""
    peers = {"loop": ("peft", "loop")}
    if bench.mergeable:
        peers["separate"] = ("separate", "separate")
    return _against(bench, "vs_mod", peers, bench.options.tokens)


def vs_peft(bench: BenchContext) -> Section:
    """Against PEFT's mixed batch."""
    return _against(bench, "vs_peft", {"batch": ("peft", "batch")}, bench.options.tokens)


def vs_nocache(bench: BenchContext) -> Section:
    """Against reading the whole text again at every token."""
    tokens = min(NOCACHE_TOKENS, bench.options.tokens)
    return _against(bench, "vs_nocache", {"nocache": ("peft", "nocache")}, tokens)


MEANINGS = {
    "loop": "set_adapter loop / MPD",
    "separate": "separate merged models in sequence / MPD",
    "batch": "PEFT mixed batch / MPD",
    "nocache": "no cache / MPD",
}


def _against(
    bench: BenchContext, measure: str, peers: dict[str, tuple[str, str]], tokens: int
) -> Section:
    ask, engine = bench.ask(), bench.get("engine")
    contests: dict[str, Callable[[], Run]] = {"mpd": lambda: engine.call("decode", (ask,), tokens)}
    for fp32 in bench.peer_precisions:
        for name, (kind, scheme) in peers.items():
            if fp32 and kind == "separate":
                continue  # as the loop, without the loop's overhead; once is enough
            peer, label = bench.get(kind, fp32=fp32), name + (".fp32" if fp32 else "")
            merged = kind == "separate"
            bench.check(label, peer, ask, scheme=scheme, rounded=merged)
            contests[label] = _timed(peer, scheme, ask, tokens)
    ms = per_token(bench.take_turns(contests))
    figures = [
        Figure(f"{measure}.{name}", ratio(spread, ms["mpd"]), _meaning(name))
        for name, spread in ms.items()
        if name != "mpd"
    ]
    return Section(tuple(figures), {"ms_per_token": spreads(ms)})


def _meaning(label: str) -> str:
    name, _, precision = label.partition(".")
    return MEANINGS[name] + (", peer in fp32" if precision else "")


def _timed(peer: Any, scheme: str, ask: Ask, tokens: int) -> Callable[[], Run]:
    return lambda: peer.call("decode", scheme, (ask,), tokens)


def per_token(runs: dict[str, list[Run]]) -> dict[str, Spread]:
    """Milliseconds a token while decoding, over the repeats."""
    return {name: Spread.of([run.ms_per_token for run in some]) for name, some in runs.items()}


def spreads(values: dict[str, Spread]) -> dict[str, dict[str, float]]:
    return {name: spread.to_dict() for name, spread in values.items()}
