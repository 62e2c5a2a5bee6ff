"""One domain of DomainNet: clip art, painting, sketch and others, 345 classes each, by its published lists.

    domainnet/   clipart/<class>/*.jpg   clipart_train.txt   clipart_test.txt   painting/ ...

The root is the domain's folder, with its lists in it or beside it, or the folder above where that holds one domain
alone. Lines are `<domain>/<class>/<image> <label>`, paths below the folder of the domains. A class that no line names
is called by its number; painting's training list lacks one that its test list has.

Source: Peng et al. 2019, "Moment Matching for Multi-Source Domain Adaptation" (arXiv 1812.01754).
"""

from __future__ import annotations

from pathlib import Path

from vitrail.data.listed import ListedImages, side_of

LISTS = {"train": "train", "val": "test"}


def is_domain(root: Path) -> bool:
    """Whether a folder is a domain, or holds some."""
    return bool(_lists(root))


def open_domain(root: str | Path, split: str = "train") -> ListedImages:
    """Images of "train" or "val" (test).

    Raises:
        ValueError: no lists, several domains, no such split, a line that cannot be read, or a label of two classes.
    """
    side, found = side_of(split, "DomainNet"), _lists(Path(root))
    if len(found) != 1:
        several = ", ".join(str(Path(root) / name) for _, name in found)
        lacking = "has no domain: <domain>_train.txt and <domain>_test.txt in it or beside it"
        raise ValueError(f"{root} {f'holds several domains; name one: {several}' if found else lacking}")
    place, domain = found[0]
    lines = {name: _lines(place / f"{domain}_{word}.txt") for name, word in LISTS.items()}
    names: dict[int, str] = {}
    for path, label in [*lines["train"], *lines["val"]]:
        name = Path(path).parent.name
        if names.setdefault(label, name) != name:
            raise ValueError(f"{place}: label {label} of {domain} is {names[label]!r} and {name!r}")
    classes = [names.get(label, str(label)) for label in range(max(names, default=-1) + 1)]
    folder = next((each for each in (place, place.parent) if (each / lines["train"][0][0]).is_file()), place)
    paths, labels = [path for path, _ in lines[side]], [label for _, label in lines[side]]
    return ListedImages(f"DomainNet {domain}", place, side, folder, paths, labels, classes)


def _lists(root: Path) -> list[tuple[Path, str]]:
    """Folder of the lists and domain: that of the root itself, else all that the root holds lists of."""
    root = root.absolute()
    own = [(place, root.name) for place in (root, root.parent) if _fit(place, root.name)]
    if own:
        return own[:1]
    names = sorted(path.name.removesuffix("_train.txt") for path in root.glob("*_train.txt"))
    return [(root, name) for name in names if _fit(root, name)]


def _fit(place: Path, domain: str) -> bool:
    paths = [place / f"{domain}_{word}.txt" for word in LISTS.values()]
    if not domain or not all(path.is_file() for path in paths):
        return False
    with paths[0].open(encoding="utf-8-sig", errors="replace") as file:
        path, _, label = file.readline().strip().rpartition(" ")
    return path.startswith(f"{domain}/") and label.isdigit()


def _lines(path: Path) -> list[tuple[str, int]]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.isdigit():
            raise ValueError(f"{path}:{number}: expected `<path> <label>`, got {line.strip()!r}")
        found.append((name, int(label)))
    if not found:
        raise ValueError(f"{path} lists no image")
    return found
