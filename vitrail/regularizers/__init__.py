"""Losses on tokens that compose with any method."""
