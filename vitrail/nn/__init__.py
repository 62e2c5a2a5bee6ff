"""Modules that methods and backbones are made of."""
