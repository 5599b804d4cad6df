"""The page and its endpoint: the only place that imports gradio or plotly, and no model maths."""

import os

from mpd_core.lazily import import_later

import_later("pandas")  # Gradio imports it for components that the page has none of: 35 to 60 MB
# After every event Gradio would make a data frame of the last 10,000, for a page that is not shown.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
