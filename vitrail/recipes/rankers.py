"""Rankers by the words of a command line: `NAME[:VARIANT][=WEIGHTS]`. torch is imported when one is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

from vitrail import catalog
from vitrail.backbones.reading import weights_file
from vitrail.rankers.source import Source, need_weights, no_variant, variant_of
from vitrail.recipes.files import told_apart

if TYPE_CHECKING:
    from vitrail.contracts import Ranker


class RankerWords(NamedTuple):
    """What a user says of a ranker."""

    name: str
    variant: str | None  # one of the words that the ranker's file names
    weights: str | None  # a file, a run folder, or "pretrained"

    @property
    def title(self) -> str:
        """`NAME` or `NAME:VARIANT`."""
        return self.name if self.variant is None else f"{self.name}:{self.variant}"

    @property
    def reads_weights(self) -> bool:
        """False for `center` and `random`. Raises `ValueError` for a name that there is not."""
        return bool(catalog.find(catalog.rankers(), self.name, "ranker").weights)

    @property
    def weights_name(self) -> str:
        """Of the weights: the run folder's name, or the file's without its ending; empty for none."""
        return "" if self.weights is None else name_of_weights(self.weights)

    def given(self, weights: str | None) -> RankerWords:
        """With these weights, where words name none. Raises `ValueError` where both name some, and others."""
        if weights and self.weights and weights != self.weights:
            raise ValueError(f"weights are named twice, {self.weights} with the ranker and {weights}; name them once")
        return self._replace(weights=self.weights or weights)

    def check(self) -> None:
        """Raise for what can be seen wrong without torch: name, variant, weights that are missing or not there."""
        entry = catalog.find(catalog.rankers(), self.name, "ranker")
        source = Source(self.weights, variant=self.variant)
        if entry.variants:
            variant_of(source, self.name, entry.variants)
        else:
            no_variant(source, self.name)
        if entry.weights and need_weights(source, self.name, entry.weights) != "pretrained":
            check_weights(self.weights)


def name_of_weights(where: str) -> str:
    """`ltrp` of `runs/ltrp` and of the file that this run exported; `vits` of `vits.pth`."""
    return _bare(where).name


def names_of_weights(wheres: Sequence[str]) -> list[str]:
    """`name_of_weights` of several, with as many of their folders as tell them apart.

    Raises `ValueError` where the same weights are named twice.
    """
    bare = [_bare(where) for where in wheres]
    twice = next((where for place, where in enumerate(wheres) if bare[place] in bare[:place]), None)
    if twice is not None:
        raise ValueError(f"the weights {twice} are named twice; name them once, or others beside them")
    return told_apart(bare)


def _bare(where: str) -> Path:
    """The run folder, or the file without its ending."""
    path = Path(where).expanduser()
    if path.is_dir():
        return path.resolve()
    return path.parent.parent if path.parent.name == "exported" else path.with_suffix("")


def parse_ranker(text: str) -> RankerWords:
    """Read `center`, `dino=dino.pth` or `dino:mass_vote=dino.pth`. Raises `ValueError` where a part is empty."""
    return RankerWords(*three_of(text, "--ranker"))


def three_of(text: str, option: str) -> tuple[str, str | None, str | None]:
    """Name, variant and weights of `NAME[:VARIANT][=WEIGHTS]`. Raises `ValueError` where a part is empty."""
    title, equals, weights = text.partition("=")
    name, colon, variant = title.partition(":")
    if not name.strip() or (equals and not weights.strip()) or (colon and not variant.strip()):
        raise ValueError(f"{option} {text!r} is not NAME, NAME=WEIGHTS or NAME:VARIANT=WEIGHTS")
    return name.strip(), variant.strip() or None, weights.strip() or None


def titled(texts: Sequence[str], weights: str | None = None) -> dict[str, RankerWords]:
    """What is said of rankers, by their titles, see `by_title`.

    Args:
        texts: see the module.
        weights: of those that name none.

    Raises:
        ValueError: the same ranker twice, or words that are none.
    """
    return by_title([each._replace(weights=each.weights or weights) for each in map(parse_ranker, texts)], "ranker")


class Words(Protocol):
    """What a user says of a ranker or a localizer."""

    @property
    def weights(self) -> str | None:
        """A file or a folder."""
        ...

    @property
    def title(self) -> str:
        """Name and variant."""
        ...


Said = TypeVar("Said", bound=Words)


def by_title(words: Sequence[Said], what: str) -> dict[str, Said]:
    """Words by their titles; where two have one title, the names of their weights are added, with as many of their
    folders as tell them apart.

    Raises:
        ValueError: the same words twice; `what` they are of, such as "ranker", is in it.
    """
    twice = [title for title, count in Counter(each.title for each in words).items() if count > 1]
    named = list(dict.fromkeys(each.weights for each in words if each.title in twice and each.weights))
    names = dict(zip(named, told_apart([_bare(where) for where in named])))
    found: dict[str, Said] = {}
    for each in words:
        title = each.title if each.title not in twice else f"{each.title} {names.get(each.weights or '', '')}".strip()
        if title in found:
            raise ValueError(f"the {what} {title} is named twice; name it once, or give it other weights")
        found[title] = each
    return found


def check_protocol(protocol: str, weights: str | None, rankers: Sequence[str]) -> None:
    """Raise for what can be seen wrong in the words for a protocol without torch: what it needs, names, files.

    Args:
        protocol: its name.
        weights: of the backbone, or of the ranker that is measured and names none.
        rankers: `NAME[:VARIANT][=WEIGHTS]` each.
    """
    wanted = catalog.asks_for(catalog.find(catalog.protocols(), protocol, "protocol"))
    if not {"ranker", "rankers"} & set(wanted):
        if rankers:
            hint = f", or say --localizer ranker:{rankers[0]}" if "source" in wanted else ""
            raise ValueError(f"{protocol} measures no ranker; leave --ranker {rankers[0]} out{hint}")
    elif (not rankers and wanted.get("ranker", wanted.get("rankers"))) or ("ranker" in wanted and len(rankers) > 1):
        known = ", ".join(each.name for each in catalog.rankers())
        count = "one ranker" if "ranker" in wanted else "at least one ranker"
        raise ValueError(f"{protocol} measures {count}; name it as --ranker NAME or NAME=WEIGHTS, known: {known}")
    if weights is None and not {"ranker", "source"} & set(wanted):
        raise ValueError(f"{protocol} needs --weights: a checkpoint, a run folder, or `pretrained` with --model")
    if "ranker" in wanted:
        parse_ranker(rankers[0]).given(weights)
    for words in titled(rankers, weights if "ranker" in wanted else None).values():
        words.check()
    check_weights(weights)


def check_weights(where: str | None) -> None:
    """`ValueError` where weights are named and not there."""
    if where is not None and where != "pretrained":
        weights_file(where)


class Shape(NamedTuple):
    """What images a ranker is made for, pixels."""

    image_size: tuple[int, int]
    patch_size: int


def open_words(words: RankerWords, like: Shape | None = None, **how: Any) -> Ranker:
    """The ranker that words name.

    Args:
        words: checked or not.
        like: sizes of a ranker that reads no weights, which has none of its own; None for 224 and 16 pixels.
        how: as for `vitrail.rankers.open_ranker`.
    """
    from vitrail.rankers import open_ranker

    if like is not None and not words.reads_weights:
        how |= like._asdict()
    return cast("Ranker", open_ranker(words.name, words.weights, variant=words.variant, **how))


def open_rankers(texts: Sequence[str], weights: str | None = None, **how: Any) -> dict[str, Ranker]:
    """Rankers by their titles, see `titled`; `how` as for `open_words`."""
    return {title: open_words(each, **how) for title, each in titled(texts, weights).items()}
