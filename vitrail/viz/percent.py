"""Shares in words: `6.2 %`, `43 %`. Only all is called 100 %, and only nothing 0 %."""

from __future__ import annotations

_LEAST = 0.001  # percent; nearer to 0 or 100 % than that is only said to be


def percent(share: float) -> str:
    """A share in [0, 1] in percent: two significant digits, and as many more as tell it from 100 %.

    The number and its sign hold together at the end of a line.
    """
    value = 100 * share
    if 0 < value < _LEAST:
        return f"under\u00a0{_LEAST:g}\u00a0%"
    if 100 - _LEAST < value < 100:
        return f"over\u00a0{100 - _LEAST:g}\u00a0%"
    if value < 10:
        return f"{value:.2g}\u00a0%"
    decimals = next(count for count in range(4) if value >= 100 or round(value, count) < 100)
    return f"{value:.{decimals}f}\u00a0%"
