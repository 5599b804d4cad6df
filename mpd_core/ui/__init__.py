"""The page and its endpoint: the only place that imports gradio or plotly, and no model maths."""
