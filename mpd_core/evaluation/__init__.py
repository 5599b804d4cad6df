"""Evaluation: replies by every method, judged by measures that no model was trained on."""
