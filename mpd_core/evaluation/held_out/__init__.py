"""Held-out figures of a trained pack, stored beside it: what ``train report`` prints."""
