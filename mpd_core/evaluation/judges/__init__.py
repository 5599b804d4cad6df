"""All judges of pairs, behind one interface (``judging.Judge``)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from mpd_core.errors import RequestError
from mpd_core.evaluation import JudgeName, judging
from mpd_core.evaluation.judging import READERS, Judge
from mpd_core.evaluation.measures import FITTED, MeasuresJudge, TextJudge
from mpd_core.evaluation.record import among, load_run, replies_of
from mpd_core.evaluation.written import known_pairs
from mpd_core.packs import Pack
from mpd_core.training.data import Styled

if TYPE_CHECKING:
    from mpd_core.evaluation.judges.server import ServerOptions

Drawn = TypeVar("Drawn")
SEED = 0
CARD_PAIRS = 60
"""Known pairs for the card of a judge that costs money, where nothing else is said."""
MEASURES, REWARDS, SERVER = "measures", "rewards", "server"
JUDGES = get_args(JudgeName)
LEARNED = "Not independent: the reward models that this pack's PCM learns from."
READS = "A language model that reads both replies and says what it thinks before its verdict."


def judge_named(
    name: str,
    pack: Pack,
    server: ServerOptions | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Judge:
    """A judge of a pack's preferences, one of ``JUDGES``; ``tell`` hears what judging will cost.

    Raises:
        RequestError: there is none of that name, or something that it needs is not given.
        PackError: reward models that cannot be read.
    """
    if name == MEASURES:
        return MeasuresJudge.of(TextJudge.of(pack))
    if name == REWARDS:
        from mpd_core.evaluation.judges.rewards import RewardsJudge

        return RewardsJudge.of(pack)
    if name == SERVER:
        from mpd_core.evaluation.judges.server import ServerJudge

        if server is None:
            raise RequestError("--judge server needs --url and --model.")
        return ServerJudge(server, tell)
    if name == READERS:
        raise RequestError("Readers judge by hand: use evaluate judge --judge readers --verdicts.")
    raise RequestError(f"Unknown judge '{name[:60]}': use {', '.join(JUDGES)}.")


def judge_run(
    pack: Pack,
    judge: Judge,
    folder: Path,
    answers: Sequence[Styled],
    *,
    methods: Sequence[str] = (),
    pairs: int | None = None,
    known: int | None = None,
    single: bool = True,
) -> None:
    """Ask a judge about a run, in pairs and, where it can, about single replies.

    A server says first what both will cost together: half of it is no estimate.

    Args:
        pack: whose preferences the run is about.
        judge: that is asked.
        folder: of the run; verdicts are stored there.
        answers: written ones, for the judge's card.
        methods: that are compared; none: all of the run.
        pairs: so many at most, drawn by a seed; None: all.
        known: the same of pairs of written answers.
        single: whether to ask about single replies as well.

    Raises:
        RequestError: a method that the run does not have.
        MPDError: no run, or whatever stops the judge; what it had said until then is stored.
    """
    run = load_run(folder)
    met = among(run.methods, methods)
    replies = [row for row in replies_of(folder, run) if row["method"] in met]
    met_pairs = list(judging.pairs_of(pack.space, replies, met))
    chosen = [*drawn(met_pairs, pairs), *drawn(known_pairs(pack.space, answers), known)]
    alone = judging.singles_of(pack.space, replies) if single else []
    if judge.costs:
        asked = judging.questions_of(judge, chosen)
        unasked = judging.unasked(judge, asked, folder, judging.VERDICTS)
        singles = judging.unasked(judge, alone, folder, judging.SINGLES)
        judge.announce([question for question in unasked if not question.alike], singles)
    judging.judge_pairs(judge, chosen, folder)
    if judge.reads_singles:
        judging.judge_singles(judge, alone, folder)


def drawn(pairs: Sequence[Drawn], count: int | None) -> list[Drawn]:
    """A sample of the pairs without replacement, by a fixed seed; None: all pairs."""
    if count is None or count >= len(pairs):
        return list(pairs)
    return random.Random(SEED).sample(list(pairs), count)


def kind_of(judge: Judge) -> str:
    """A sentence on a judge, for every table that uses it."""
    known = {MEASURES: FITTED, REWARDS: LEARNED}
    return known.get(judge.name, f"{READS} Its model: {judge.version.partition(' ')[0]}.")
