"""One self-contained page about one or more runs."""

from vitrail.report.page import Section, write_page

__all__ = ["Section", "write_page"]
