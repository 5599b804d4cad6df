"""Puts ``assets`` into the installed package; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mpd_core*"]), "mpd_core.assets"],
    package_dir={"mpd_core.assets": "assets"},
    package_data={"mpd_core": ["**/*.json"], "mpd_core.assets": ["**/*"]},
)
