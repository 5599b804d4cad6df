"""The held-out figures that a pack carries, as a text for people, and the card that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mpd_core.console import aligned
from mpd_core.errors import PackError
from mpd_core.evaluation import Found
from mpd_core.packs import Pack
from mpd_core.rendering import rendered
from mpd_core.saving import read_json
from mpd_core.training import recipe

FILE = "report.json"
PARTS: Mapping[str, tuple[str, ...]] = {
    "rewards": ("base", "rewards"),
    "experts": ("base", "experts", "rewards"),
    "mixtures": ("",),
}
"""Parts of a report, and how the names of the weights begin that each depends on."""

CARD = "README.md"


def read(pack: Pack, *, missing_ok: bool = False) -> dict[str, Any]:
    """The figures stored beside a pack.

    Raises:
        PackError: there are none.
    """
    file = pack.folder / FILE
    if missing_ok and not file.is_file():
        return {}
    if not file.is_file():
        raise PackError(f"{file} is missing: run train report --recompute.")
    figures: dict[str, Any] = read_json(file)
    made_of = figures.get("weights", {})
    figures["stale"] = [part for part in made_of if made_of[part] != weights(pack, part)]
    return figures


def weights(pack: Pack, part: str) -> dict[str, str]:
    """Hashes of what a part's figures are of: those files of weights that it depends on."""
    files = {name: sha for name, sha in pack.hashes.items() if name != "pack.toml"}
    return {name: sha for name, sha in files.items() if name.startswith(PARTS[part])}


def text(figures: Found) -> str:
    """Tables of everything that is known."""
    makers = {"rewards": _rewards, "experts": _experts, "mixtures": _mixtures}
    named = [(make, figures[name]) for name, make in makers.items() if name in figures]
    parts = [part for make, found in named for part in make(found)]
    if stale := figures.get("stale"):
        names = ", ".join(stale)
        parts.append(f"The pack has changed since: compute anew (--recompute --only {names}).")
    return "\n\n".join(part for part in parts if part)


def _rewards(figures: Found) -> Iterator[str]:
    rows = [("reward model", "pairs", "n", "accuracy", "length only", "readability only")]
    for pole, kinds in figures.items():
        for kind, entry in kinds.items():
            shares = (entry[key] for key in ("accuracy", "length_only", "readability_only"))
            rows.append((pole, kind, str(entry["pairs"]), *map(_share, shares)))
    yield "Reward models: accuracy on held-out pairs\n" + aligned(rows)


def _experts(figures: Found) -> Iterator[str]:
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


def _mixtures(figures: Found) -> Iterator[str]:
    names = figures["schemes"]
    codes = list(figures["mpd"]["by_preference"])
    yield from _identification(figures["identification"])
    head = ("replies", "reward", "MPD gains", "p", "MPD wins", "words", "ended", "loops", "ln p")
    rows = [(*head, *codes)]
    for name in names:
        entry, bt_scores = figures[name], figures.get(f"mpd_vs_{name}")
        gains = (
            (f"{bt_scores['gain']:+.4f}", f"{bt_scores['p']:.4f}", _share(bt_scores["wins"]))
            if bt_scores
            else ("", "", "")
        )
        reply_stats = (f"{entry['words']:.0f}", _share(entry["finished"]), _share(entry["loops"]))
        sense = f"{figures['likelihood'][name]:.2f}"
        by_code = (f"{entry['by_preference'][code]:.3f}" for code in codes)
        rows.append((name, f"{entry['reward']:.4f}", *gains, *reply_stats, sense, *by_code))
    yield (
        "Rewards against the references, MPD's lead (p over prompts), form, and the bare base's "
        "log-likelihood a token\n" + aligned(rows)
    )
    moves = figures["weights"]
    means = {c: " ".join(f"{w:.2f}" for w in row) for c, row in moves["mean_weights"].items()}
    yield (
        f"A weight's mean distance from its mean over the reply: {moves['moved_in_a_reply']:.4f}; "
        "correlation of a token's distance with the experts' disagreement: "
        f"{moves['correlation_with_disagreement']:+.3f}; "
        f"entropy of the weights over that of uniform ones: {moves['entropy']:.3f}. "
        f"Mean weights by preference: {', '.join(f'{c} {row}' for c, row in means.items())}."
    )


def _identification(table: Found) -> Iterator[str]:
    """By reward models / by measures; the worst cell of each is starred."""
    codes = list(next(iter(table.values())))
    dimensions = list(table[next(iter(table))][codes[0]])
    kinds = ("reward", "measure")
    rows = [("shows its pole", "dimension", "mean", "worst", *codes)]
    for method, by_code in table.items():
        least = {kind: min(_shares(by_code, kind), default=1.0) for kind in kinds}
        for name in dimensions:
            cells = [_cell(by_code[c][name], least) if c in by_code else "" for c in codes]
            summary = (_both(by_code, kinds, fmean), _both(by_code, kinds, min))
            start = (method, name, *summary) if name == dimensions[0] else ("", name, "", "")
            rows.append((*start, *cells))
    yield (
        "Share of replies that show the chosen pole rather than its opposite, by reward models / "
        "by measures no model was trained on, in percent; * is a method's worst\n" + aligned(rows)
    )


def _shares(by_code: Found, kind: str) -> list[float]:
    return [cell[kind] for row in by_code.values() for cell in row.values() if kind in cell]


def _both(by_code: Found, kinds: Sequence[str], of: Callable[[list[float]], float]) -> str:
    found = (_shares(by_code, kind) for kind in kinds)
    return " / ".join(f"{100 * of(values):.0f}" if values else "-" for values in found)


def _cell(cell: Mapping[str, float], least: Mapping[str, float]) -> str:
    return " / ".join(
        f"{100 * share:.0f}{'*' if share == least[kind] else ''}" for kind, share in cell.items()
    )


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def write(pack: Pack, figures: Mapping[str, Any]) -> Path:
    """Write the card beside the pack; figures that are not known are not in it."""
    card = rendered(
        "card.md",
        spec=pack.spec,
        data=recipe.load_recipe(pack).data,
        recipe=recipe.FILE,
        megabytes=_bytes(pack) / 1e6,
        measured=text(figures) if figures else "Nothing has been measured yet.",
    )
    file = pack.folder / CARD
    file.write_text(card, encoding="utf-8")
    return file


def _bytes(pack: Pack) -> int:
    spec = pack.spec
    others = (spec.experts.anchor, spec.rewards, spec.pcm.adapter)
    adapters = [*spec.experts.adapters.values(), *(adapter for adapter in others if adapter)]
    folders = [pack.path(adapter.folder) for adapter in adapters]
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir())
