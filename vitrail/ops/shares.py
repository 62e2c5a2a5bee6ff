"""Shares of patches, checked without torch, which takes seconds to import."""

from __future__ import annotations


def check_share(keep: float) -> None:
    """`ValueError` for a share of kept patches outside (0, 1]."""
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep:g}; it is the share of the patches that stay, above 0 and at most 1")
