"""What is wrong with this machine or this folder of images, each finding with its mend."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vitrail.data.finding import Finding
from vitrail.data.inspect import inspect_folder

GIB = 2**30


def findings(
    folder: Path | None,
    *,
    patch_size: int = 16,
    image_size: int = 224,
    out: Path = Path(),
    every: bool = False,
) -> list[Finding]:
    """Findings about the machine, the disk and, when given, the folder of images; `every` decodes all of them."""
    found = [*_versions(), *_compute(), *_disk(out), *_geometry(image_size, patch_size)]
    if folder is not None:
        found += inspect_folder(folder, patch_size=patch_size, image_size=image_size, every=every)
    return found


def _versions() -> list[Finding]:
    import vitrail

    found = [
        Finding(
            "ok",
            f"vitrail {vitrail.__version__}, Python {platform.python_version()}, {platform.system()}",
            "",
        )
    ]
    for package, oldest in (("torch", (2, 11)), ("timm", (1, 0, 20))):
        try:
            have = version(package)
        except PackageNotFoundError:
            found.append(Finding("error", f"{package} is not installed", f"pip install {package}"))
            continue
        numbers = tuple(int(part) for part in have.split("+")[0].split(".")[:3] if part.isdigit())
        wanted = ".".join(map(str, oldest))
        if numbers < oldest:
            found.append(
                Finding("error", f"{package} {have} is older than {wanted}", f"pip install '{package}>={wanted}'")
            )
        else:
            found.append(Finding("ok", f"{package} {have}", ""))
    return found


def _compute() -> list[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [Finding("ok", f"{cores} CPU cores, torch uses {torch.get_num_threads()}", "")]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        mend = (
            "this torch is a CPU build; install one with CUDA"
            if built is None
            else f"torch is built for CUDA {built}; check the driver with nvidia-smi, or go on with small models"
        )
        return [*found, Finding("warning", "no GPU that torch can use: training runs on the CPU", mend)]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found.append(Finding("ok", f"GPU {index}: {card.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free", ""))
        if free < 0.5 * total:
            mend = "another process holds it; nvidia-smi names it, CUDA_VISIBLE_DEVICES chooses another"
            found.append(Finding("warning", f"GPU {index}: less than half of its memory is free", mend))
    return found


def _disk(out: Path) -> list[Finding]:
    place = out.resolve()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return [Finding("error", f"{place} is not writable", "choose another run folder with --out")]
    free = shutil.disk_usage(place).free / GIB
    if free < 2:
        return [Finding("error", f"{free:.2f} GiB free at {place}", "free some space: a ViT-S run writes about 1 GiB")]
    return [Finding("ok", f"{free:.0f} GiB free at {place}", "")]


def _geometry(image_size: int, patch_size: int) -> list[Finding]:
    if patch_size < 1 or image_size < patch_size:
        mend = "raise the image size or choose a smaller patch"
        return [Finding("error", f"images of {image_size} pixels hold no patch of {patch_size}", mend)]
    if image_size % patch_size:
        below, above = image_size // patch_size * patch_size, -(-image_size // patch_size) * patch_size
        mend = f"use {below} or {above}"
        return [Finding("error", f"image size {image_size} is not a multiple of the patch size {patch_size}", mend)]
    side = image_size // patch_size
    return [Finding("ok", f"{image_size} pixels with patches of {patch_size}: a grid of {side} x {side} patches", "")]
