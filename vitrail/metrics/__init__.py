"""Counts and scores without a model."""
