"""Generated scenes as videos: `SyntheticScenes.motion`, the object of each scene being object 1."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vitrail.contracts import Sample, Video
from vitrail.data.folders import position
from vitrail.data.synthetic import SyntheticScenes


class SceneVideo:
    """A scene and what comes after it. Fulfills `vitrail.contracts.Video`."""

    objects: tuple[int, ...] = (1,)

    def __init__(self, name: str, samples: list[Sample]) -> None:
        self.name, self.samples = name, samples

    def __len__(self) -> int:
        return len(self.samples)

    def frame(self, index: int) -> Image.Image:
        """A frame as RGB."""
        return self.samples[index].image

    def mask(self, index: int) -> np.ndarray:
        """1 where the object is, uint8 `[H, W]`."""
        mask = self.samples[index].mask
        assert mask is not None  # scenes have one
        return (mask > 0).astype(np.uint8)


class SceneVideos:
    """The motion of every scene of a set. Fulfills `vitrail.contracts.VideoSet`."""

    unit = "sequences"
    classes: tuple[str, ...] | None = None

    def __init__(self, scenes: SyntheticScenes, frames: int = 12) -> None:
        """Args: frames: of each video, at least 3. Raises `ValueError` for fewer."""
        if frames < 3:
            raise ValueError(f"{frames} frames: the first and the last of a video do not count, so give at least 3")
        self.scenes, self.frames, self.split, self.name = scenes, frames, scenes.split, "scenes"
        self.lengths: Sequence[int] = [frames] * len(scenes)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Video:
        index = position(index, len(self))
        return SceneVideo(f"scene-{index:05d}", self.scenes.motion(index, self.frames))

    def digest(self) -> str:
        """Of the scenes and the number of frames."""
        return hashlib.sha256(f"{self.scenes.digest()} {self.frames}".encode()).hexdigest()[:16]
