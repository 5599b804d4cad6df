"""People as judges: the pages Vote and Results, over the replies of a stored run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpd_core.ui.pages import navigation
from mpd_core.ui.people import results_page, vote_page
from mpd_core.ui.people.ballots import Place

if TYPE_CHECKING:
    from mpd_core.packs import Pack


def add(page: Any, pack: Pack) -> None:
    """Give an app two more pages, ``/vote`` and ``/results``; call it after the main one."""
    with page:
        navigation()
    place = Place(pack)
    vote_page.build(page, place)
    results_page.build(page, place)
