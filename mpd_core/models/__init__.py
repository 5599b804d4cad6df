"""Base models, adapters on them, and the Preference Control Model."""
