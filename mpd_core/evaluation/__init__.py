"""Evaluation: replies by every method, judged by measures that no model was trained on."""

from __future__ import annotations

from typing import Literal

JudgeName = Literal["measures", "rewards", "server"]
"""Everybody who can be asked to judge by a command."""
