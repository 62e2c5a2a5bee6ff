"""What a ranker or a localizer is opened from."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Source(NamedTuple):
    """Weights and words, as a user gives them. Each file of the room has a `from_source` that reads what it needs."""

    weights: str | None = None  # a file or a run folder; "pretrained" downloads where timm offers it
    model: str | None = None  # timm's name, where the file does not tell
    key: str = "auto"  # which network of a file that holds several
    image_size: int | tuple[int, int] | None = None  # pixels; None for what the weights were made for
    patch_size: int | None = None  # pixels; for those whose network has no patches of its own
    variant: str | None = None  # one of the words that the file names; None for the paper's text


Kind = Literal["ranker", "localizer"]
NEED_NONE: dict[Kind, str] = {"ranker": "`random` and `center`", "localizer": "`whole_image` and `centered_box`"}


def need_weights(source: Source, name: str, which: str, kind: Kind = "ranker") -> str:
    """The weights, or `ValueError` that says which are needed: `which` completes "give ..."."""
    if source.weights is None:
        raise ValueError(
            f"the {kind} {name} needs weights: give {which}; no weights come with this library, and offline nothing "
            f"can be downloaded. {NEED_NONE[kind]} need none"
        )
    return source.weights


def variant_of(source: Source, name: str, known: tuple[str, ...], kind: Kind = "ranker") -> str:
    """The asked-for variant, by default the first known one; `ValueError` for another word."""
    if source.variant is None:
        return known[0]
    if source.variant not in known:
        raise ValueError(f"the {kind} {name} has no variant {source.variant!r}; known: {', '.join(known)}")
    return source.variant


def no_variant(source: Source, name: str, kind: Kind = "ranker") -> None:
    """For those that have none: `ValueError` where one is asked for."""
    if source.variant is not None:
        raise ValueError(f"the {kind} {name} has no variants; leave {source.variant!r} out")


def need_number(number: int | None, patches: int, ranker: str) -> int:
    """How many patches will be kept; `ValueError` where that was not said, or is outside 1 to N."""
    if number is None:
        raise ValueError(f"the scores of the ranker {ranker} depend on how many patches are kept; pass number=")
    from vitrail.ops.selection import check_number  # torch is not needed before scores are

    check_number(number, patches)
    return number
