"""An engine that has read what all prompts begin with: less to read, and the same replies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mpd_core.engine import Engine
from mpd_core.packs import Pack
from tests.test_crowd import Reading, assert_equal
from tests.test_engine import ask

OPTIONS = {"prompt": "plain", "adapters": True, "pcm_trained": True, "first_layer": 1}


@pytest.mark.parametrize("method", ["mpd", "vanilla"])
def test_a_first_prompt_reads_only_what_is_its_own(
    make_pack: Callable[..., Pack], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every preference, to the bit; and nothing of it is left where nothing is to be kept."""
    pack = make_pack(**OPTIONS)
    warm, cold = Engine.open(pack, warm=True), Engine.open(pack, kept_rows=0)
    readings = [Reading(engine, monkeypatch) for engine in (warm, cold)]
    request = ask("Why is the sky blue?", "AAB", method)
    found, wanted = (engine.generate(request).steps for engine in (warm, cold))
    assert_equal(warm, found, wanted)
    ours, all_of_it = (reading.so_far() for reading in readings)
    rows = warm._processor.sequence(request).on("base")
    assert 0 < ours <= all_of_it - len(rows)
    warm.close()
    cold.close()


def test_it_is_read_for_every_adapter_and_nobody_runs_then(make_pack: Callable[..., Pack]) -> None:
    engine = Engine.open(make_pack(**OPTIONS), warm=True)
    held = {row.call.adapters for row in engine._tables["base"].kept}
    poles = engine.pack.spec.experts.adapters
    assert held >= {((name, 1.0),) for name in poles} | {(("pcm", 1.0),), ()}
    assert engine._scheduler.idle
    assert not engine._tables["base"].running
    engine.close()


def test_nothing_is_read_where_nothing_may_be_kept(make_pack: Callable[..., Pack]) -> None:
    engine = Engine.open(make_pack(**OPTIONS), warm=True, kept_rows=0)
    assert len(engine._tables["base"].kept) == 0
    assert engine.generate(ask()).text
    engine.close()
