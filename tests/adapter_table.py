"""``python -m tests.adapter_table`` loads adapters of all kinds and writes what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.adapter_kinds import KINDS
from tests.adapter_oracle import outcome

TABLE = Path(__file__).resolve().parents[1] / "mpd_core" / "models" / "ADAPTERS.md"


def table() -> Iterator[str]:
    """The lines of the table."""
    yield "# Adapter kinds\n"
    yield "Each was made by PEFT on a tiny random base, LLaMA unless another is named, trained at"
    yield "random, and loaded. *Right* is followed by the largest difference in log-probability to"
    yield "PEFT itself, in fp32, of the written-out LLaMA decoder and of the general one; *refused*"
    yield "by the sentence. Made by `python -m tests.adapter_table`.\n"
    yield "| kind | outcome |\n|---|---|"
    for kind in KINDS:
        yield f"| {kind.name} | {outcome(kind)} |"


if __name__ == "__main__":
    TABLE.write_text("\n".join(table()) + "\n", encoding="utf-8")
