"""What can answer "what is the next token?", and who is asked for which method."""

from mpd_core.experts.plan import BASE, PCM, TRUNK, Plan, Row, make_plan, method_names

__all__ = ["BASE", "PCM", "TRUNK", "Plan", "Row", "make_plan", "method_names"]
