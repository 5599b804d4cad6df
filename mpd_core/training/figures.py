"""The figures that a pack carries, as a text for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mpd_core.bench.report import aligned
from mpd_core.errors import PackError
from mpd_core.packs import Pack

FILE = "report.json"
PARTS: Mapping[str, tuple[str, ...]] = {
    "rewards": ("base", "rewards"),
    "experts": ("base", "experts", "rewards"),
    "mixtures": ("",),
}
"""Parts of a report, and how the names of the weights begin that each depends on."""

Figures = Mapping[str, Any]


def read(pack: Pack, *, missing_ok: bool = False) -> dict[str, Any]:
    """The figures stored beside a pack.

    Raises:
        PackError: there are none.
    """
    file = pack.folder / FILE
    if not file.is_file():
        if missing_ok:
            return {}
        raise PackError(f"{file} is missing: run train report --recompute.")
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    made_of = figures.get("weights", {})
    figures["stale"] = [part for part in made_of if made_of[part] != weights(pack, part)]
    return figures


def weights(pack: Pack, part: str) -> dict[str, str]:
    """Hashes of what a part's figures are of: those files of weights that it depends on."""
    files = {name: sha for name, sha in pack.hashes.items() if name != "pack.toml"}
    return {name: sha for name, sha in files.items() if name.startswith(PARTS[part])}


def text(figures: Figures) -> str:
    """Tables of everything that is known."""
    makers = {"rewards": _rewards, "experts": _experts, "mixtures": _mixtures}
    parts = [
        part for name, make in makers.items() if name in figures for part in make(figures[name])
    ]
    if stale := figures.get("stale"):
        names = ", ".join(stale)
        parts.append(f"The pack has changed since: compute anew (--recompute --only {names}).")
    return "\n\n".join(part for part in parts if part)


def _rewards(figures: Figures) -> Iterator[str]:
    rows = [("reward model", "pairs", "n", "accuracy", "length only", "readability only")]
    for pole, kinds in figures.items():
        if pole != "external":
            rows += [
                (
                    pole,
                    kind,
                    str(entry["pairs"]),
                    _share(entry["accuracy"]),
                    _share(entry["length_only"]),
                    _share(entry["readability_only"]),
                )
                for kind, entry in kinds.items()
            ]
    yield "Reward models: accuracy on held-out pairs\n" + aligned(rows)
    others = [("third-party pairs", "reward model", "n", "accuracy", "shorter is better")]
    for name, entry in figures.get("external", {}).items():
        shares = (_share(entry["accuracy"]), _share(entry["shorter_first"]))
        others.append((name, entry["pole"], str(entry["pairs"]), *shares))
    yield aligned(others)


def _experts(figures: Figures) -> Iterator[str]:
    head = ("expert", "wins by reward", "wins by measure", "ended", "loops", "words", "grade")
    rows = [(*head, "rare words", "sentiment")]
    for name, entry in figures.items():
        own = _share(entry["reward_wins"]) if "reward_wins" in entry else "-"
        other = (
            f"{_share(entry['measure_wins'])} ({entry['measure']})" if "measure" in entry else "-"
        )
        ends = (_share(entry["finished"]), _share(entry["loops"]))
        means = (f"{entry['words']:.0f}", f"{entry['grade']:.1f}", _share(entry["rare"]))
        rows.append((name, own, other, *ends, *means, f"{entry['sentiment']:+.2f}"))
    yield "Experts against the base, each alone on its own pole\n" + aligned(rows)


def _mixtures(figures: Figures) -> Iterator[str]:
    methods = [name for name in ("uniform", "static", "mpd") if name in figures]
    codes = list(figures[methods[0]]["by_preference"])
    rows = [("reward", "all", *codes)]
    for name in methods:
        by_code = figures[name]["by_preference"]
        rows.append((name, f"{figures[name]['reward']:.4f}", *(f"{by_code[c]:.4f}" for c in codes)))
    yield "Mean Bradley-Terry reward against the references (uniform is 0.5)\n" + aligned(rows)
    gains = [("MPD against", "gain", "p", "wins", "decided", *codes)]
    for other in ("uniform", "static"):
        if f"mpd_vs_{other}" in figures:
            entry = figures[f"mpd_vs_{other}"]
            cells = [f"{g['gain']:+.4f} (p {g['p']:.3f})" for g in entry["by_preference"].values()]
            shares = (f"{entry['gain']:+.4f}", f"{entry['p']:.4f}", _share(entry["wins"]))
            gains.append((other, *shares, str(entry["decided"]), *cells))
    yield aligned(gains)
    form = [("replies", "words", "ended", "loops")]
    for name in methods:
        entry = figures[name]
        ends = (_share(entry["finished"]), _share(entry["loops"]))
        form.append((name, f"{entry['words']:.0f}", *ends))
    yield aligned(form)
    dimensions = list(next(iter(figures["toggles"].values())))
    toggles = [("follows its poles", *dimensions)]
    for code, entry in figures["toggles"].items():
        toggles.append((code, *(_share(entry[name]) for name in dimensions)))
    yield aligned(toggles)
    moves = figures["weights"]
    means = {c: " ".join(f"{w:.2f}" for w in row) for c, row in moves["mean_weights"].items()}
    yield (
        f"A weight's mean distance from its mean over the reply: {moves['moved_in_a_reply']:.4f}; "
        "correlation of a token's distance with the experts' disagreement: "
        f"{moves['correlation_with_disagreement']:+.3f}; "
        f"entropy of the weights over that of uniform ones: {moves['entropy']:.3f}. "
        f"Mean weights by preference: {', '.join(f'{c} {row}' for c, row in means.items())}."
    )


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"
