"""Toggle identification: which poles a judge recognises in a single reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from mpd_core.evaluation import Figures, Found, union
from mpd_core.evaluation.measures import Scorer
from mpd_core.evaluation.record import Row
from mpd_core.method.preferences import PreferenceSpace

Shares = dict[str, dict[str, dict[str, float]]]
"""By method, preference and dimension."""


def _credits(
    space: PreferenceSpace, replies: Sequence[Row], scorers: Mapping[str, Scorer]
) -> Iterator[tuple[str, Row, dict[str, float]]]:
    """What each scorer gives each reply, by chosen dimension: 1 where it names the chosen pole, a
    half for neither, 0 for another pole; nothing where it says nothing."""
    for scorer, score in scorers.items():
        for row in replies:
            said = score(row["prompt"], row["text"])
            chosen = space.parse(row["code"]).chosen
            named = {name: said[name] for name in chosen if name in said}
            yield (
                scorer,
                row,
                {
                    name: 0.5 if pole is None else float(pole == chosen[name].name)
                    for name, pole in named.items()
                },
            )


def identify(
    space: PreferenceSpace, replies: Sequence[Row], scorers: Mapping[str, Scorer]
) -> Figures:
    """{method: {code: {dimension: {scorer: share}}}}.

    Share of replies of which a judge, who sees the reply alone, names the chosen pole. Neither pole
    counts half, another pole nothing. Dimensions that a preference leaves out, and those of which
    the judge says nothing, have no share.
    """
    cells: dict[tuple[str, str, str, str], list[float]] = {}
    for scorer, row, credits in _credits(space, replies, scorers):
        for name, credit in credits.items():
            cells.setdefault((row["method"], row["code"], name, scorer), []).append(credit)
    table: Figures = {}
    for (method, code, name, scorer), found in cells.items():
        row = table.setdefault(method, {}).setdefault(code, {})
        row.setdefault(name, {})[scorer] = fmean(found)
    return table


def whole(space: PreferenceSpace, replies: Sequence[Row], scorers: Mapping[str, Scorer]) -> Figures:
    """{method: {scorer: share of replies of which every chosen pole is named}}.

    Of replies that a scorer has a verdict on in every dimension that the preference has.
    """
    found: dict[str, dict[str, list[bool]]] = {}
    for scorer, row, credits in _credits(space, replies, scorers):
        if credits and len(credits) == len(space.parse(row["code"]).poles):
            named = all(credit == 1 for credit in credits.values())
            found.setdefault(row["method"], {}).setdefault(scorer, []).append(named)
    return {m: {scorer: fmean(r) for scorer, r in by.items()} for m, by in found.items()}


def means(table: Found, every: Found) -> Figures:
    """{method: {scorer: {"mean", "worst": [code, dimension, share], "whole"}}} over all cells.

    ``table`` is what ``identify`` gives, ``every`` what ``whole`` does.
    """
    found: Figures = {method: {} for method in table}
    for scorer in judges_of(table):
        for method, by_code in shares_of(table, scorer).items():
            cells = [(s, code, name) for code, row in by_code.items() for name, s in row.items()]
            if cells:
                least, code, name = min(cells)
                found[method][scorer] = {
                    "mean": fmean(share for share, _, _ in cells),
                    "worst": [code, name, least],
                    "whole": every.get(method, {}).get(scorer),
                }
    return found


def worst(shares: Shares) -> Figures:
    """{method: {code: [dimension, share]}}: what a preference shows least."""
    return {
        method: {
            code: [*min(row.items(), key=lambda cell: cell[1])] for code, row in rows.items() if row
        }
        for method, rows in shares.items()
    }


def judges_of(table: Found) -> list[str]:
    """Who has named poles in what ``identify`` gives: the text measures first."""
    return union(cell for rows in table.values() for row in rows.values() for cell in row.values())


def shares_of(table: Found, scorer: str) -> Shares:
    """One scorer's shares from the result of ``identify``."""
    return {
        method: {
            code: {name: cell[scorer] for name, cell in row.items() if scorer in cell}
            for code, row in rows.items()
        }
        for method, rows in table.items()
    }
