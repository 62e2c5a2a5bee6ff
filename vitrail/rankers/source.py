"""What a ranker is opened from."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Weights and words, as a user gives them. Each ranker's file has a `from_source` that reads what it needs."""

    weights: str | None = None  # a file or a run folder; "pretrained" downloads where timm offers it
    model: str | None = None  # timm's name, where the file does not tell
    key: str = "auto"  # which network of a file that holds several
    image_size: int | tuple[int, int] | None = None  # pixels; None for what the weights were made for
    patch_size: int | None = None  # pixels; for rankers whose network has no patches of its own
    variant: str | None = None  # one of the words that the ranker's file names; None for the paper's text


def need_weights(source: Source, ranker: str, which: str) -> str:
    """The weights, or `ValueError` that says which are needed: `which` completes "give ..."."""
    if source.weights is None:
        raise ValueError(
            f"the ranker {ranker} needs weights: give {which}; no weights come with this library, and offline nothing "
            "can be downloaded. `random` and `center` need none"
        )
    return source.weights


def variant_of(source: Source, ranker: str, known: tuple[str, ...]) -> str:
    """The asked-for variant, by default the first known one; `ValueError` for another word."""
    if source.variant is None:
        return known[0]
    if source.variant not in known:
        raise ValueError(f"the ranker {ranker} has no variant {source.variant!r}; known: {', '.join(known)}")
    return source.variant


def no_variant(source: Source, ranker: str) -> None:
    """For rankers that have none: `ValueError` where one is asked for."""
    if source.variant is not None:
        raise ValueError(f"the ranker {ranker} has no variants; leave {source.variant!r} out")


def need_number(number: int | None, patches: int, ranker: str) -> int:
    """How many patches will be kept; `ValueError` where that was not said, or is outside 1 to N."""
    if number is None:
        raise ValueError(f"the scores of the ranker {ranker} depend on how many patches are kept; pass number=")
    from vitrail.ops.selection import check_number  # torch is not needed before scores are

    check_number(number, patches)
    return number
