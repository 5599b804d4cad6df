"""What can answer "what is the next token?", and who is asked for which method."""

from mpd_core.experts.plan import (
    ANCHOR,
    BASE,
    PCM,
    PLAIN,
    TRUNK,
    Plan,
    Row,
    make_plan,
    method_names,
)

__all__ = ["ANCHOR", "BASE", "PCM", "PLAIN", "TRUNK", "Plan", "Row", "make_plan", "method_names"]
