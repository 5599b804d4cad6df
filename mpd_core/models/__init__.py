"""Base models, adapters on them, and the Preference Control Model."""

from transformers.utils.import_utils import is_scipy_available

from mpd_core.left_out import left_out

with left_out("scipy"):  # transformers' losses of object detection would load 35 MB of it
    is_scipy_available.cache_clear()
    is_scipy_available()  # and this answer is remembered
