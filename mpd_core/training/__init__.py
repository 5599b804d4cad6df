"""Training of experts, reward models and the Preference Control Model.

``stages.py`` has the stages in their order. They share ``context.py`` (pack, base, data),
``recipe.py``, ``data.py``, ``trunk.py`` (layers below the adapters, read once), ``rollouts.py``
(sampled replies) and ``export.py`` (from trained weights to a pack). ``adapters/`` trains experts
and reward models, ``scoring/`` says what a reply is worth, ``pcm/`` trains the PCM. The losses are
in ``mpd_core.method``; every try and its figures are in README.md.
"""
