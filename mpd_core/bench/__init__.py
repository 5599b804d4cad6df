"""``python -m mpd_core bench``: this engine beside its peers, in one run, on the same weights.

Every peer scheme is written out here in its plainest form, checked to give the engine's own
distribution before it is timed, and runs in a process of its own (see ``peer_pool``).
"""
