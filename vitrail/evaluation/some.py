"""Some images of a set, evenly spaced: what a protocol looks at where all of them would take too long."""

from __future__ import annotations

import hashlib

from vitrail.contracts import ImageSet, Sample


class Some:
    """At most `most` samples of a set, evenly spaced; all of them for None. Fulfills `vitrail.contracts.ImageSet`.

    Attributes: `positions`, where each sample stands in the whole set; `root`, `split`, `name` and `background` as the
    set says.
    """

    def __init__(self, data: ImageSet, most: int | None) -> None:
        count = min(len(data), most or len(data))
        self.data, self.classes = data, data.classes
        self.positions = [number * len(data) // count for number in range(count)]
        self.root, self.split = getattr(data, "root", None), getattr(data, "split", None)
        self.name = getattr(data, "name", None) or (None if self.root else type(data).__name__)
        self.background = bool(getattr(data, "background", False))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Sample:
        return self.data[self.positions[index]]

    def digest(self) -> str:
        """That of the set, where all of it is taken; else with the positions."""
        if len(self.positions) == len(self.data):
            return self.data.digest()
        return hashlib.sha256(f"{self.data.digest()}{self.positions}".encode()).hexdigest()[:16]
