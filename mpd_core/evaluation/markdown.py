"""The report of a run as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from mpd_core.evaluation import Found, tables
from mpd_core.evaluation.cells import Table, blocks, line, number
from mpd_core.evaluation.identified import judges_of
from mpd_core.evaluation.paper import order_said


def markdown(found: Found) -> str:
    """The report as Markdown tables."""
    run, sampling = found["run"], found["run"]["sampling"]
    drawn = f"temperature {sampling['temperature']:g}" if sampling["temperature"] else "greedy"
    lines = [
        *blocks(
            f"# Evaluation of {line(run['pack'])}",
            f"{run['count']} prompts ({line(run['prompts'])}), {drawn}, at most "
            f"{sampling['max_new_tokens']} tokens, repetition penalty "
            f"{sampling['repetition_penalty']:g}, loop penalty {sampling['dry_multiplier']:g}, "
            f"{'; '.join(run['devices'])}.{tables.fewer(found)}",
            "## The paper's tables",
        ),
        *paper_tables(found),
        *_identification(found),
        *_validation(found["validation"]),
    ]
    for name, judge in found["judges"].items():
        lines += _judge(name, judge)
    lines += [*readers(found), *_people(found["people"])]
    lines += blocks("## How replies are", tables.replies(found["quality"]))
    for method, rows in found["weights"].items():
        lines += blocks(f"## Where the weights of {method} move", tables.weights(rows))
    return "\n".join(lines) + "\n"


def paper_tables(found: Found) -> Iterator[str]:
    """The paper's tables, judge by judge; for RESULTS.md as well."""
    for name, drawn in found["paper"]["judges"].items():
        judge = found["judges"][name]
        yield from blocks(
            f"### Table 2, by the judge '{name}'",
            f"Win rate of row over column in percent. {judge['kind']} Average: of baselines and "
            "MPD over all other columns, of others over the three baselines.",
            tables.table_2(drawn["table_2"]),
            order_said(drawn["order"], judge["meetings"]),
            f"### Table 4, by the judge '{name}'",
            f"{tables.TABLE_4} {judge['kind']}",
            tables.table_4(drawn["table_4"]),
        )
    head, rows = tables.table_3(found["paper"]["table_3"])
    if rows:
        title = "### Tables 3 and 5: MPD against each method, by judge"
        yield from blocks(title, tables.TABLE_3, (head, rows))
        judges = found["judges"]
        yield from (f"- {name}: {judges[name]['kind']}" for name in head if name in judges)
        yield ""


def heats(found: Found, heading: str, *, without: str = "") -> Iterator[str]:
    """A heat table for each judge of single replies, under ``heading`` with its name."""
    for judge in judges_of(found["identification"]):
        if judge != without:
            name = line(tables.NAMES.get(judge, judge))
            yield from blocks(heading.format(name), tables.heat(found["identification"], judge))


def readers(found: Found) -> Iterator[str]:
    """What blind readers said beside poles and pairs; for RESULTS.md as well."""
    if (marks := tables.marks(found.get("readers")))[1]:
        yield from blocks("## How good replies are, by blind readers", marks)


def _identification(found: Found) -> Iterator[str]:
    yield from blocks(
        "## Which poles the replies show",
        "Share of replies, in percent, in which a judge that sees one reply alone names the chosen "
        "pole; neither counts half, and 50 is what a reply without any style gets. The worst cell "
        f"of each method is bold. The text measures: {found['validation']['said']}",
    )
    yield from heats(found, "### By the judge '{}'")
    yield from blocks(tables.IDENTIFIED, tables.identified(found["identified"]))
    if any(found["worst"].values()):
        rows = [([method], row) for method, row in found["worst"].items()]
        said = "The worst dimension of each preference:"
        yield from blocks(said, tables.worst(["method"], rows))


def _validation(figures: Found) -> Iterator[str]:
    yield from blocks(
        "## How well the measures read",
        f"{figures['kind']} On held-out written answers to {figures['prompts']} prompts, whose "
        "poles are known (in brackets: forced to name one):",
        tables.validation(figures)
        if figures["shares"]
        else "The pack has no written answers that could tell.",
    )


def _judge(name: str, judge: Found) -> Iterator[str]:
    rows, flips = judge["meetings"], judge["flip_rate"]
    orders = f" Both orders asked; answers that flipped: {number(flips)}."
    lost = f" Answers that could not be read: {judge['unread']}."
    first = [row for row in rows if row["first"] == rows[0]["first"]]  # MPD, where it is there
    worst = [((row["first"], row["second"]), row["worst"]) for row in first]
    yield from blocks(
        f"## Who wins, by the judge '{name}'",
        f"{judge['kind']}{'' if flips is None else orders}{lost if judge['unread'] else ''}\n"
        "Win rate: the paper's rule (sign of the sum over dimensions, zero sums dropped), with a "
        "95% interval over prompts; p: exact binomial on decided pairs; Holm: over this table.\n"
        "Like length: (W+T/2)/N over the dimensions other than length, as it would be for replies "
        "of one length. Found: how far from 0.50 a rate must be for this many pairs to tell.",
        tables.listed(rows, tables.MEETINGS),
        *_if_any("Better as a whole:", tables.whole(rows)),
        "(W+T/2)/N by dimension:",
        tables.by_part(rows, "by_dimension"),
        "(W+T/2)/N by preference:",
        tables.by_part(rows, "by_code"),
        "The worst dimension of each preference, with its (W+T/2)/N:",
        tables.worst(["first", "second"], worst),
        tables.strengths(judge),
        *_if_any(tables.CARD, tables.card(judge["card"])),
    )


def _if_any(said: str, drawn: Table) -> tuple[str | Table, ...]:
    return (said, drawn) if drawn[1] else ()


def _people(found: Found) -> Iterator[str]:
    if found["meetings"]:
        agreed = [f"{k} {number(v)}" for k, v in found["agreement"].items() if v is not None]
        alpha = f"Krippendorff's alpha: {', '.join(agreed)}."
        yield from blocks(
            "## Who wins, by people",
            f"{found['votes']} votes by {found['raters']} raters. "
            f"{alpha if agreed else 'No pair has two raters.'}",
            tables.listed(found["meetings"], tables.PEOPLE),
        )
