"""Run folders of trainings that learned from masks, with weights of a tiny ViT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tiny_vit import tiny_vit

from vitrail.backbones import save_exported

SETTINGS = {"heads": [0, 2], "size": 32, "high": 0.5, "low": 0.2}


def run(folder: Path, **values: Any) -> Path:
    """A run folder with weights that has learned from masks."""
    (folder / "exported").mkdir(parents=True)
    save_exported(tiny_vit().export(), folder / "exported" / "backbone.safetensors")
    config = {"kind": "locloc", "mask_settings": SETTINGS, "object_masks": None, "masks_from": None} | values
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder
