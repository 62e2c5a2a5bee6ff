"""How PPD is opened as a localizer; the rest of it stands in tests/test_localizers_locloc.py, beside LocLoc."""

from __future__ import annotations

from test_localizers_locloc import saved

OPENINGS = {
    "both parts": lambda folder: {"weights": saved("ppd", folder)[1]},
    "a generator alone": lambda folder: {"weights": saved("ppd", folder, parts="generator")[1]},
}
