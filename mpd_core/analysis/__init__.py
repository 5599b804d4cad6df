"""What many traces say together: who weighs where, on which words, and where experts differ."""

from mpd_core.analysis.files import read_trace, trace_from_dict, trace_from_json
from mpd_core.analysis.measure import Analysis, analyse

__all__ = ["Analysis", "analyse", "read_trace", "trace_from_dict", "trace_from_json"]
