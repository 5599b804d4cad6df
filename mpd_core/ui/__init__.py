"""The page and its endpoint: the only place that imports gradio or plotly, and no model maths."""

import importlib

from mpd_core.left_out import left_out

with left_out("pyarrow"):  # 25 MB, for which pandas has no use where gradio uses pandas
    importlib.import_module("pandas")
