"""Helpers that several tests share."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]  # of the repository
