"""Analysis of many traces: weights by position and kind of word, and where experts disagree."""

from mpd_core.analysis.files import read_trace, trace_from_dict, trace_from_json
from mpd_core.analysis.measure import Analysis, analyse

__all__ = ["Analysis", "analyse", "read_trace", "trace_from_dict", "trace_from_json"]
