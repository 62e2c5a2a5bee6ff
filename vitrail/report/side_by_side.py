"""A page on which runs stand side by side in pictures, too: the same images as the weights of each see them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from vitrail.contracts import ImageSet
from vitrail.recipes.measure import data_of
from vitrail.recipes.rankers import name_of_weights
from vitrail.recipes.side_by_side import draw_side_by_side, start_of
from vitrail.recipes.sources import open_data, open_splits
from vitrail.report.collect import read_runs
from vitrail.report.page import Section, write_page


class Side(NamedTuple):
    """What is set beside the runs."""

    before: bool = False  # the weights that the only run started from
    pictures: int = 0  # images that are drawn; 0 for none
    data: str | None = None  # which images, as for `vitrail evaluate`; None for those that the last run held out
    device: str = "auto"


def write_side_by_side(path: Path, runs: Sequence[str | Path], side: Side, *, title: str = "vitrail report") -> Path:
    """Write the page of `write_page` with sections more, in which weights see the same images.

    With `before` the run that the training started from comes first, so that all differences are those that training
    made; where it started from a file that no run left, its numbers are not known, and it stands in the pictures alone.

    Raises:
        ValueError: `before` with several runs, or with one that started with fresh weights; runs without weights; data
            that are not there; and as `write_page`.
    """
    wanted = list(map(str, runs))
    loose: dict[str, str] = {}
    if side.before:
        if len(wanted) != 1:
            raise ValueError(f"--before is of one run, and {len(wanted)} are given; name what came before as the first")
        start = start_of(wanted[0])
        if Path(start).is_dir():
            wanted.insert(0, start)
        else:
            loose[name_of_weights(start)] = start
    records = read_runs(wanted)
    sections: list[Section] = []
    if side.pictures:
        weights = loose | {record.name: str(record.path) for record in records}
        found = draw_side_by_side(weights, _images(wanted[-1], side.data), side.pictures, device=side.device)
        sections = [Section(each.title, "", [(each.caption, each.picture)]) for each in found]
    words = ""
    if loose:
        (name,) = loose
        words = f"{name} is a file of weights that no run left: it stands in the pictures, its numbers are not known."
    return write_page(
        path, records, title=title, introduction=f"<p>{escape(words)}</p>" * bool(words), sections=sections
    )


def _images(run: str, data: str | None) -> ImageSet:
    """What is held out of the named images, or of those that the run was trained on."""
    trained = data_of(Path(run))
    if data is not None:
        return open_data(data, trained, []).val
    if trained is None:
        raise ValueError(f"{run} does not say which images it was trained on; name some with --data")
    return open_splits(trained).val
