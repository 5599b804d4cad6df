"""MPD Studio: personalised text generation by Merged Preference Dimensions."""

__version__ = "0.1.0"
