"""Training of the Preference Control Model: open ``loop.py`` first."""
