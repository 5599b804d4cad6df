"""``python -m mpd_core bench``: this engine beside its peers, in one run, on the same weights."""
