"""Two sets of images in turn, one to one: objects first, scenes second.

Image number 2 i is of the first set and 2 i + 1 of the second; the shorter set starts over until the longer one is
through. `vitrail.data.Loader` keeps them in turn, so each batch of an even size holds as many of one as of the other.
"""

from __future__ import annotations

import hashlib

from vitrail.contracts import ImageSet, Sample
from vitrail.data.folders import position


class Mixed:
    """Object-centric and scene-centric images. Fulfills `vitrail.contracts.ImageSet`.

    A sample's `source` is 0 for the first set and 1 for the second. Labels, masks and boxes are left out: the two sets
    need not speak of the same classes.
    """

    kinds = 2
    classes: tuple[str, ...] | None = None

    def __init__(self, objects: ImageSet, scenes: ImageSet) -> None:
        """Raises `ValueError` where one of them is empty."""
        if not (len(objects) and len(scenes)):
            raise ValueError(f"{len(objects)} object-centric and {len(scenes)} scene-centric images; both need some")
        self.objects, self.scenes = objects, scenes
        self.root = getattr(objects, "root", None)
        self.split = getattr(objects, "split", None)

    def __len__(self) -> int:
        return 2 * max(len(self.objects), len(self.scenes))

    def __getitem__(self, index: int) -> Sample:
        index = position(index, len(self))
        source = index % 2
        data = self.scenes if source else self.objects
        sample = data[index // 2 % len(data)]
        return Sample(sample.image, path=sample.path, source=source, companion=sample.companion)

    def digest(self) -> str:
        """Of both sets."""
        return hashlib.sha256(f"{self.objects.digest()}{self.scenes.digest()}".encode()).hexdigest()[:16]
