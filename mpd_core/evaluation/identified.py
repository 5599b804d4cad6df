"""Toggle identification: which poles a judge recognises in a single reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mpd_core.evaluation import Figures
from mpd_core.evaluation.measures import Scorer, Shares, TextReply, identification
from mpd_core.evaluation.store import Row
from mpd_core.method.preferences import PreferenceSpace


def identify(
    space: PreferenceSpace, replies: Sequence[Row], scorers: Mapping[str, Scorer]
) -> Figures:
    """{method: {code: {dimension: {scorer: share}}}}."""
    rows = [TextReply(row["prompt"], row["code"], row["method"], row["text"]) for row in replies]
    found = {name: identification(space, rows, scorer) for name, scorer in scorers.items()}
    table: Figures = {}
    for name, shares in found.items():
        for method, by_code in shares.items():
            for code, by_dimension in by_code.items():
                cells = table.setdefault(method, {}).setdefault(code, {})
                for dimension, share in by_dimension.items():
                    cells.setdefault(dimension, {})[name] = share
    return table


def whole(space: PreferenceSpace, replies: Sequence[Row], scorers: Mapping[str, Scorer]) -> Figures:
    """{method: {scorer: share of replies of which every chosen pole is named}}.

    Of replies that a scorer has a verdict on in every dimension that the preference has.
    """
    found: dict[str, dict[str, list[bool]]] = {}
    for row in replies:
        preference = space.parse(row["code"])
        pairs = zip(preference.dimensions, preference.choices, strict=True)
        chosen = {dimension.name: pole.name for dimension, pole in pairs if pole}
        for name, scorer in scorers.items():
            said = scorer(row["prompt"], row["text"])
            if chosen and chosen.keys() <= said.keys():
                right = all(said[dimension] == pole for dimension, pole in chosen.items())
                found.setdefault(row["method"], {}).setdefault(name, []).append(right)
    return {m: {name: fmean(r) for name, r in by.items()} for m, by in found.items()}


def means(table: Mapping[str, Any], every: Mapping[str, Any]) -> Figures:
    """{method: {scorer: {"mean", "worst": [code, dimension, share], "whole"}}} over all cells.

    Args:
        table: what ``identify`` gives.
        every: what ``whole`` gives.
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

    def least(row: Mapping[str, float]) -> list[Any]:
        name = min(row, key=lambda dimension: row[dimension])
        return [name, row[name]]

    return {
        method: {code: least(row) for code, row in rows.items() if row}
        for method, rows in shares.items()
    }


def judges_of(table: Mapping[str, Any]) -> list[str]:
    """Who has named poles in what ``identify`` gives: the text measures first."""
    cells = (cell for rows in table.values() for row in rows.values() for cell in row.values())
    return list(dict.fromkeys(name for cell in cells for name in cell))


def shares_of(table: Mapping[str, Any], scorer: str) -> Shares:
    """One scorer's shares from the result of ``identify``."""
    return {
        method: {
            code: {name: cell[scorer] for name, cell in row.items() if scorer in cell}
            for code, row in rows.items()
        }
        for method, rows in table.items()
    }
