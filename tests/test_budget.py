"""One budget of keys and values for all models of an engine, as arithmetic: no GPU is needed."""

from __future__ import annotations

import pytest

from mpd_core.engine.budget import (
    CPU_CACHE_BYTES,
    GRAPH_BYTES,
    MAX_ROWS,
    MOST_GRAPHS,
    Need,
    Share,
    share_cpu,
    share_gpu,
)
from mpd_core.errors import PackError

GIB = 2**30
CARDS = (16, 24, 40, 80)


def llama(rows: int, layers: int, heads: int, width: int, context: int, step: int = 2**20) -> Need:
    return Need(rows, context + 64, 2 * layers * heads * width * 2, step)


TULU = {"base": llama(3, 32, 32, 128, 4096), "pcm": llama(1, 12, 12, 64, 2048)}
SMOLLM = {"trunk": llama(4, 15, 3, 64, 2048), "base": llama(4, 15, 3, 64, 2048)}
CHECKPOINTS = {**TULU, "other": llama(1, 32, 32, 128, 4096), "another": llama(1, 32, 8, 128, 4096)}
WEIGHTS = {"tulu": 5.1, "smollm": 0.8, "checkpoints": 13.0}
PACKS = {"tulu": TULU, "smollm": SMOLLM, "checkpoints": CHECKPOINTS}


def taken(needs: dict[str, Need], shares: dict[str, Share]) -> int:
    """Bytes that are laid out when every model has made a pass, and every graph is captured."""
    graphs = sum(MOST_GRAPHS * GRAPH_BYTES for need in needs.values() if need.step_bytes)
    rows = sum(
        share.rows * (needs[name].length * needs[name].token_bytes + needs[name].step_bytes)
        for name, share in shares.items()
    )
    return graphs + rows


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", PACKS)
def test_all_models_together_fit(name: str, card: int) -> None:
    """With a fifth of the rest left over; whole requests, and on every card the shipped packs."""
    needs, free = PACKS[name], int((card - WEIGHTS[name]) * GIB)
    if name == "checkpoints" and card < 40:
        with pytest.raises(
            PackError, match=r"decode\.context: keys and values of one request take 8\.7 GiB"
        ):
            share_gpu(free, needs)
        return
    shares = share_gpu(free, needs)
    assert taken(needs, shares) <= 0.85 * free
    assert all(share.rows >= needs[lane].rows for lane, share in shares.items())
    assert all(share.tokens == share.rows * needs[lane].length for lane, share in shares.items())
    requests = min(share.rows // needs[lane].rows for lane, share in shares.items())
    more = {
        lane: Share(min(MAX_ROWS, (requests + 1) * need.rows), 0) for lane, need in needs.items()
    }
    full = all(share.rows == MAX_ROWS for share in shares.values())
    assert full or taken(needs, more) > 0.79 * free - GIB


def test_no_model_has_more_rows_than_a_step_can() -> None:
    shares = share_gpu(10**15, CHECKPOINTS)
    assert {share.rows for share in shares.values()} == {MAX_ROWS}


def test_a_card_that_is_full_is_refused_in_one_line() -> None:
    with pytest.raises(PackError, match=r"this GPU has 0\.0 GiB for them: lower decode\.context"):
        share_gpu(GIB // 2, TULU)


@pytest.mark.parametrize("needs", PACKS.values(), ids=PACKS)
def test_a_cpus_share_is_one_budget_too(needs: dict[str, Need]) -> None:
    """Tokens as a request needs them; what is short is never less than one row."""
    shares = share_cpu(needs)
    assert {share.rows for share in shares.values()} == {MAX_ROWS}
    assert all(share.tokens >= needs[lane].length for lane, share in shares.items())
    large = share_cpu(needs, 100 * CPU_CACHE_BYTES)
    held = sum(share.tokens * needs[lane].token_bytes for lane, share in large.items())
    assert 0.999 * 100 * CPU_CACHE_BYTES < held <= 100 * CPU_CACHE_BYTES
