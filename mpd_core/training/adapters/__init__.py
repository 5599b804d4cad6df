"""Adapters of one base: experts and reward models, by supervised training."""
