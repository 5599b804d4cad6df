"""Base models, adapters on them, and the Preference Control Model."""

from mpd_core.models.threads import settle

settle()
