"""The held-out figures that a pack carries, as a text for people, and the card that holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    if not file.is_file():
        if missing_ok:
            return {}
        raise PackError(f"{file} is missing: run train report --recompute.")
    figures: dict[str, Any] = read_json(file)
    made_of = figures.get("weights", {})
    figures["stale"] = [part for part in made_of if made_of[part] != weights(pack, part)]
    return figures


def weights(pack: Pack, part: str) -> dict[str, str]:
    """Hashes of what a part's figures are of: those files of weights that it depends on."""
    return {
        name: sha
        for name, sha in pack.hashes.items()
        if name != "pack.toml" and name.startswith(PARTS[part])
    }


def text(figures: Found) -> str:
    """Tables of everything that is known."""
    makers = {"rewards": _rewards, "experts": _experts, "mixtures": _mixtures}
    parts = [part for n, make in makers.items() if n in figures for part in make(figures[n])]
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
    rows: list[tuple[str, ...]] = [(*head, "rare words", "sentiment")]
    for name, entry in figures.items():
        own = _share(entry["reward_wins"]) if "reward_wins" in entry else "-"
        by = f"{_share(entry['measure_wins'])} ({entry['measure']})" if "measure" in entry else "-"
        shares = (_share(entry[key]) for key in ("finished", "loops"))
        read = (f"{entry['words']:.0f}", f"{entry['grade']:.1f}", _share(entry["rare"]))
        rows.append((name, own, by, *shares, *read, f"{entry['sentiment']:+.2f}"))
    yield "Experts against the base, each alone on its own pole\n" + aligned(rows)


def _mixtures(figures: Found) -> Iterator[str]:
    codes = list(figures["mpd"]["by_preference"])
    yield from _identification(figures["identification"])
    head = ("replies", "reward", "MPD gains", "p", "MPD wins", "words", "ended", "loops", "ln p")
    rows = [(*head, *codes)]
    for name in figures["schemes"]:
        entry, against = figures[name], figures.get(f"mpd_vs_{name}")
        gains = ("", "", "")
        if against:
            wins = _share(against["wins"])
            gains = f"{against['gain']:+.4f}", f"{against['p']:.4f}", wins
        stats = (f"{entry['words']:.0f}", *(_share(entry[key]) for key in ("finished", "loops")))
        sense = f"{figures['likelihood'][name]:.2f}"
        by_code = (f"{entry['by_preference'][code]:.3f}" for code in codes)
        rows.append((name, f"{entry['reward']:.4f}", *gains, *stats, sense, *by_code))
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
    rows = [("shows its pole", "dimension", "mean", "worst", *codes)]
    for method, by_code in table.items():
        every = [cell for row in by_code.values() for cell in row.values()]
        shares = [[cell[kind] for cell in every if kind in cell] for kind in ("reward", "measure")]
        mean, worst = (
            " / ".join(f"{100 * of(some):.0f}" if some else "-" for some in shares)
            for of in (fmean, min)
        )
        least = dict(zip(("reward", "measure"), (min(s, default=1.0) for s in shares), strict=True))
        for name in dimensions:
            cells = [_cell(by_code[c][name], least) if c in by_code else "" for c in codes]
            first = name == dimensions[0]
            rows.append((*((method, name, mean, worst) if first else ("", name, "", "")), *cells))
    yield (
        "Share of replies that show the chosen pole rather than its opposite, by reward models / "
        "by measures no model was trained on, in percent; * is a method's worst\n" + aligned(rows)
    )


def _cell(cell: Mapping[str, float], least: Mapping[str, float]) -> str:
    return " / ".join(
        f"{100 * share:.0f}{'*' if share == least[kind] else ''}" for kind, share in cell.items()
    )


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def write(pack: Pack, figures: Mapping[str, Any]) -> Path:
    """Write the card beside the pack; figures that are not known are not in it."""
    spec = pack.spec
    others = (spec.experts.anchor, spec.rewards, spec.pcm.adapter)
    adapters = [*spec.experts.adapters.values(), *(adapter for adapter in others if adapter)]
    files = (file for adapter in adapters for file in pack.path(adapter.folder).iterdir())
    card = rendered(
        "card.md",
        spec=spec,
        data=recipe.load_recipe(pack).data,
        recipe=recipe.FILE,
        megabytes=sum(file.stat().st_size for file in files) / 1e6,
        measured=text(figures) if figures else "Nothing has been measured yet.",
    )
    file = pack.folder / CARD
    file.write_text(card, encoding="utf-8")
    return file
