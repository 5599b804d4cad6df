"""All judges of pairs, behind one interface (``judging.PairJudge``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from mpd_core.errors import RequestError
from mpd_core.evaluation import JudgeName
from mpd_core.evaluation.judges.measures import MeasuresJudge
from mpd_core.evaluation.judging import Named, PairJudge
from mpd_core.evaluation.measures import TextJudge
from mpd_core.packs import Pack

if TYPE_CHECKING:
    from mpd_core.evaluation.judges.server import ServerOptions

MEASURES, REWARDS, SERVER = "measures", "rewards", "server"
JUDGES = get_args(JudgeName)
FITTED = "Fitted on the written answers' surface measures, not a neural model."
LEARNED = "Not independent: the reward models that this pack's PCM learns from."
READS = "A language model that reads both replies and says what it thinks before its verdict."


def judge_named(
    name: str,
    pack: Pack,
    server: ServerOptions | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> PairJudge:
    """A judge by its name.

    Args:
        name: one of ``JUDGES``.
        pack: whose preferences it judges.
        server: what ``server`` needs.
        tell: is told in sentences what judging will cost.

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
    raise RequestError(f"Unknown judge '{name[:60]}': use {', '.join(JUDGES)}.")


def kind_of(judge: Named) -> str:
    """A sentence on a judge, for every table that uses it."""
    known = {MEASURES: FITTED, REWARDS: LEARNED}
    return known.get(judge.name, f"{READS} Its model: {judge.version.partition(' ')[0]}.")
