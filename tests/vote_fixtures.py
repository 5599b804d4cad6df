"""A stored run to vote on, and who votes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

from mpd_core.evaluation.record import RunRecord
from mpd_core.evaluation.votes import Vote, Votes
from mpd_core.packs import Pack

METHODS = ("mpd", "uniform", "soup")
SAMPLING = {
    **{"temperature": 0.0, "max_new_tokens": 9},
    **{"repetition_penalty": 1.0, "dry_multiplier": 0.0},
}


def write_run(
    folder: Path, pack: Pack, texts: tuple[str, ...] = ("Why?", "How?"), mark: str = ""
) -> RunRecord:
    """Replies of three methods to whole preferences; soup says what uniform says."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, text in enumerate(texts):
        for code in ("AAA", "BBB"):
            for method in METHODS:
                said = f"{'mpd' if method == 'mpd' else 'other'} {code} on {text} {mark}"
                rows.append(
                    {"key": f"{number}-{code}-{method}{mark}", "id": str(number), "prompt": text}
                    | {"code": code, "method": method, "text": said, "finished": True}
                    | {"tokens": 9, "device": "cpu", "precision": "fp32"}
                )
    (folder / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = tuple(str(row["key"]) for row in rows)
    name, count = pack.spec.name, len(texts)
    run = RunRecord(name, {}, "x", count, METHODS, ("AAA", "BBB"), SAMPLING, keys, f"content{mark}")
    run.save(folder)
    return run


def vote(rater: str, pair: str, prompt: str = "1", **verdicts: int) -> Vote:
    chosen = verdicts or {"tone": 1}
    return Vote(rater, pair, "p", "c", prompt, "AAA", "mpd", "soup", False, 0, chosen)


def many(file: Path, rater: str, count: int, done: str = "") -> None:
    """Vote on pairs 0, 1, ...; ``done`` is a file that gets the number of each that returned."""
    votes = Votes(file)
    for number in range(count):
        votes.cast(vote(rater, str(number)))
        if done:
            with Path(done).open("a") as lines:
                lines.write(f"{number}\n")


def killed(file: Path, done: Path, after: int) -> list[str]:
    """Kill -9 whoever votes, in the middle of it; the pairs whose vote had returned by then."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=many, args=(file, "killed", 100_000, str(done)))
    process.start()
    while process.is_alive() and not (
        done.is_file() and len(done.read_text().splitlines()) >= after
    ):
        time.sleep(0.005)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lines = done.read_text().split("\n")
    return lines[:-1]
