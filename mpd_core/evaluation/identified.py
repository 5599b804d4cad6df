"""Toggle identification: which poles a judge recognises in a single reply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from mpd_core.evaluation import Figures
from mpd_core.evaluation.cells import union
from mpd_core.evaluation.measures import Scorer
from mpd_core.evaluation.store import Row
from mpd_core.method.preferences import PreferenceSpace

Shares = dict[str, dict[str, dict[str, float]]]
"""By method, preference and dimension."""


def identify(
    space: PreferenceSpace, replies: Iterable[Row], scorers: Mapping[str, Scorer]
) -> Figures:
    """{method: {code: {dimension: {scorer: share}}}}.

    Share of replies of which a judge, who sees the reply alone, names the chosen pole. Neither pole
    counts half, another pole nothing. Dimensions that a preference leaves out, and those of which
    the judge says nothing, have no share.
    """
    rows = list(replies)
    credits: dict[tuple[str, str, str, str], list[float]] = {}
    for scorer, score in scorers.items():
        for row in rows:
            said = score(row["prompt"], row["text"])
            for name, pole in space.parse(row["code"]).chosen.items():
                if name in said:
                    credit = 0.5 if said[name] is None else float(said[name] == pole.name)
                    cell = row["method"], row["code"], name, scorer
                    credits.setdefault(cell, []).append(credit)
    table: Figures = {}
    for (method, code, name, scorer), found in credits.items():
        cells = table.setdefault(method, {}).setdefault(code, {}).setdefault(name, {})
        cells[scorer] = fmean(found)
    return table


def whole(space: PreferenceSpace, replies: Sequence[Row], scorers: Mapping[str, Scorer]) -> Figures:
    """{method: {scorer: share of replies of which every chosen pole is named}}.

    Of replies that a scorer has a verdict on in every dimension that the preference has.
    """
    found: dict[str, dict[str, list[bool]]] = {}
    for row in replies:
        chosen = space.parse(row["code"]).chosen
        for name, scorer in scorers.items():
            said = scorer(row["prompt"], row["text"])
            if chosen and chosen.keys() <= said.keys():
                right = all(said[dimension] == pole.name for dimension, pole in chosen.items())
                found.setdefault(row["method"], {}).setdefault(name, []).append(right)
    return {m: {name: fmean(r) for name, r in by.items()} for m, by in found.items()}


def means(table: Mapping[str, Any], every: Mapping[str, Any]) -> Figures:
    """{method: {scorer: {"mean", "worst": [code, dimension, share], "whole"}}} over all cells.

    ``table`` is what ``identify`` gives, ``every`` what ``whole`` does.
    """
    found: Figures = {}
    for method, rows in table.items():
        cells: dict[str, list[tuple[float, str, str]]] = {}
        for code, row in rows.items():
            for name, by_scorer in row.items():
                for scorer, share in by_scorer.items():
                    cells.setdefault(scorer, []).append((share, code, name))
        found[method] = {
            scorer: {
                "mean": fmean(share for share, _, _ in shares),
                "worst": [*min(shares)[1:], min(shares)[0]],
                "whole": every.get(method, {}).get(scorer),
            }
            for scorer, shares in cells.items()
        }
    return found


def worst(shares: Shares) -> Figures:
    """{method: {code: [dimension, share]}}: what a preference shows least."""
    found: Figures = {}
    for method, rows in shares.items():
        cells = {
            code: min(row.items(), key=lambda cell: cell[1]) for code, row in rows.items() if row
        }
        found[method] = {code: list(cell) for code, cell in cells.items()}
    return found


def judges_of(table: Mapping[str, Any]) -> list[str]:
    """Who has named poles in what ``identify`` gives: the text measures first."""
    return union(cell for rows in table.values() for row in rows.values() for cell in row.values())


def shares_of(table: Mapping[str, Any], scorer: str) -> Shares:
    """One scorer's shares from the result of ``identify``."""
    return {
        method: {
            code: {name: cell[scorer] for name, cell in row.items() if scorer in cell}
            for code, row in rows.items()
        }
        for method, rows in table.items()
    }
