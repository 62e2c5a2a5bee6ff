"""Load a backbone's weights from anyone's file, and save ours.

A file is read without running code in it, recognized by its names, and fits the model entirely or is refused:
half a checkpoint that loads in silence gives numbers that mean nothing. Our own files are safetensors under
timm's names, with the configuration in the header, so that they need no name and timm reads them too; PVT and CvT,
which timm lacks, have their authors' names.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from vitrail.backbones.architecture import AnyBackbone, create
from vitrail.backbones.config import BackboneConfig
from vitrail.backbones.fitting import fill, network_of
from vitrail.backbones.following import Name, architecture_of, as_config, changed, follow_surgery
from vitrail.backbones.layouts import Recognized, recognize
from vitrail.backbones.parts import set_apart
from vitrail.backbones.pretrained import load_pretrained
from vitrail.backbones.reading import read_file, weights_file
from vitrail.backbones.staged import is_staged
from vitrail.backbones.t2t_vit import FAMILY
from vitrail.contracts import Exported

Size = int | tuple[int, int] | None


class Classifier(NamedTuple):
    """What `load_classifier` returns."""

    backbone: AnyBackbone
    head: nn.Linear
    classes: tuple[str, ...] | None  # names of the outputs; None where the file has none
    pool: Literal["cls", "mean"]  # what the head reads, after the final norm: class token, or mean of the patches


def load(
    name: Name | Path = None,
    weights: str | Path | None = None,
    *,
    image_size: Size = None,
    checkpoint_key: str = "auto",
    allow_partial: bool = False,
    drop_path: float | None = None,
    gradient_checkpointing: bool | None = None,
) -> AnyBackbone:
    """A backbone with weights; `backbone.report.words()` says how they fit.

    Args:
        name: timm's name, that of a PVT or CvT, or a whole `BackboneConfig`. None reads the architecture from the
            file: from the header of our own, by the shapes of others (the report says what was guessed).
        weights: "pretrained" (timm downloads), or a file: safetensors, or a torch checkpoint in the layout of
            timm, DINO, iBOT, Mugs, Leopart, MAE, MoCo-v3, DeiT, DINOv2, T2T-ViT, PVT, CvT or Hugging Face's ViT, PVT
            and CvT; or a run folder. A path may also be given alone, in the name's place.
        image_size: pixels to make the positions for; they are interpolated from those of the weights.
        checkpoint_key: which network of the file: "teacher", "student", "momentum_encoder", ...; "auto"
            prefers a teacher, MoCo-v3's base encoder, and Leopart's student.
        allow_partial: warn, instead of refusing, where weights are missing or unexpected.
        drop_path, gradient_checkpointing: for training on from here, in place of what the configuration says.

    Returns:
        The model in training mode, on the CPU. The architecture follows the weights: one whose last block has
        no norm2 was trained with SAR's surgery, and gets it; so does one with CoTAP's object-aware filter.

    Raises:
        ValueError: for an unreadable file, weights of another architecture, a partial fit, or a failed
            download; each says the way out.
    """
    if isinstance(name, Path) or (weights is None and isinstance(name, str) and not _is_model(name)):
        if weights is not None:
            raise ValueError(f"load got two places of weights, {name} and {weights}; give one, after a model's name")
        name, weights = None, name  # no name of a model: a path
    if weights is None:
        raise ValueError(
            "load needs weights: 'pretrained', or the path of a file or run folder, as in "
            "load('vit_small_patch16_224', 'pretrained') or load('runs/photos'); vitrail.backbones.create makes a "
            "backbone with fresh weights"
        )
    given = {
        "image_size": image_size,
        "drop_path": drop_path,
        "gradient_checkpointing": gradient_checkpointing,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if str(weights) == "pretrained":
        return load_pretrained(changed(as_config(name), changes), allow_partial)
    path = weights_file(weights)
    found, own = _found(path, checkpoint_key)
    return _build(found, own, name, changes, str(path), allow_partial)


def load_classifier(
    path: str | Path, name: Name = None, *, image_size: Size = None, checkpoint_key: str = "auto"
) -> Classifier:
    """A backbone and its linear classifier, which reads what `pool` says.

    Raises:
        ValueError: as `load`; and for a file without a classifier, one whose classifier reads an average that is
            normalized once more (`fc_norm`), or a distilled model, which has two.
    """
    path = weights_file(path)
    found, own = _found(path, checkpoint_key)
    if not found.head:
        raise ValueError(
            f"{path} holds no classifier (head.weight), only a backbone; train one on it, `vitrail train finetune "
            f"data.root=FOLDER --init-from {path}`, or use what needs none: `vitrail evaluate knn`, vitrail.load"
        )
    changes = {} if image_size is None else {"image_size": image_size}
    backbone = _build(found, own, name, changes, str(path))
    if "fc_norm.weight" in found.state:
        raise ValueError(
            f"{path} classifies the average of the patches after a norm of its own (fc_norm), which is neither the "
            "class token nor the mean of normalized patches; load the backbone alone"
        )
    if "dist_token" in found.state:
        raise ValueError(f"{path} has two classifiers, for class and distillation token; load the backbone alone")
    weight = found.head["weight"]
    if weight.shape[1] != backbone.embed_dim:
        raise ValueError(
            f"{path}: the classifier takes {weight.shape[1]} channels, the backbone gives {backbone.embed_dim}"
        )
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict(found.head)
    said = own or {}
    if (pool := said.get("pool", "cls")) not in ("cls", "mean"):
        raise ValueError(f"{path} says that its classifier reads {pool!r}; this version knows 'cls' and 'mean'")
    return Classifier(backbone, head, tuple(said["classes"]) if said.get("classes") is not None else None, pool)


def save_exported(exported: Exported, path: str | Path) -> None:
    """Write safetensors with the metadata in the header, whole or not at all: what was at `path` stays until
    then.

    Raises:
        OSError: where it cannot be written (a full disk).
    """
    from safetensors.torch import save

    path = Path(path)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in exported.state.items()}
    content = save(state, metadata={"format": "pt", "vitrail": json.dumps(exported.metadata)})
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def digest(backbone: AnyBackbone) -> str:
    """16 hex digits over the weights and what decides how they are used; for names of caches."""
    total = hashlib.sha256()
    if backbone.config is not None:
        spared = ("drop_path", "gradient_checkpointing")
        plain = {key: value for key, value in backbone.config.plain().items() if key not in spared}
        if plain["object_filter"] is None:
            del plain["object_filter"]  # digests of plain backbones stay what they were before there were filters
        total.update(json.dumps(plain | {"image_size": backbone.image_size}, sort_keys=True).encode())
    for name, value in sorted(network_of(backbone).state_dict().items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _is_model(name: str) -> bool:
    return timm.is_model(name.partition(".")[0]) or is_staged(name) or name in FAMILY


def _found(path: Path, key: str) -> tuple[Recognized, dict[str, Any] | None]:
    """What a file holds, and the metadata of one of ours."""
    content, own = read_file(path)
    if own is not None and "convnet" in own:
        raise ValueError(
            f"{path} holds a convolutional network, {own['convnet']['name']}, and this needs a Vision Transformer; "
            "`vitrail evaluate knn` measures it, and vitrail.backbones.load_convnet opens it"
        )
    if own is not None and "backbone" not in own and "ranker" in own:
        raise ValueError(
            f"{path} holds a network that is no Vision Transformer, for the ranker {own['ranker']['name']}: name it by "
            f"--ranker {own['ranker']['name']}={path}, or open it by vitrail.rankers.open_ranker"
        )
    content, apart, note = set_apart(content, own)
    try:
        found = recognize(content, key)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    found = found._replace(ignored=(*found.ignored, *apart), notes=(*found.notes, *note))
    # MoCo-v3 writes `arch` too, in words of its own.
    return (found if found.arch and _is_model(found.arch) else found._replace(arch=None)), own


def _build(
    found: Recognized,
    own: Mapping[str, Any] | None,
    name: Name,
    changes: Mapping[str, Any],
    source: str,
    partial: bool = False,
) -> AnyBackbone:
    config, notes, grid = architecture_of(found, own, name, source)
    config = changed(config, changes)
    config, operated = follow_surgery(config, found, source, partial)
    backbone = create(config)
    mean, std, pixels = _pixels(found, own, name, backbone)
    backbone.mean, backbone.std = mean, std
    report = fill(backbone, found, grid, source)
    layout = found.layout if own is None else "vitrail"
    report = report._replace(layout=layout, notes=(*found.notes, *notes, *operated, pixels))
    if report.missing or report.unexpected:
        if not partial:
            raise ValueError(
                f"{source} fits {config.name} only in part; give the matching name, or pass "
                "allow_partial=True "
                f"if this is meant.\n{report.words()}"
            )
        warnings.warn(f"{source} was loaded in part.\n{report.words()}", stacklevel=3)
    backbone.report = report
    return backbone


def _pixels(
    found: Recognized, own: Mapping[str, Any] | None, name: Name, backbone: AnyBackbone
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean and standard deviation that the weights want, and where they come from."""
    if own is not None and "mean" in own and "std" in own:
        mean, std, source = tuple(own["mean"]), tuple(own["std"]), "as the file says"
    elif found.layout == "Hugging Face ViT" and "dist_token" not in found.state:
        mean = std = (0.5, 0.5, 0.5)
        source = "as Hugging Face's ViT has them; look into its preprocessor_config.json"
    elif found.layout == "timm" and (found.arch is not None or isinstance(name, BackboneConfig) or "." in (name or "")):
        mean, std, source = backbone.mean, backbone.std, "as timm says for this name"
    elif found.layout == "timm" and name is not None and tuple(backbone.mean) != tuple(IMAGENET_DEFAULT_MEAN):
        # A bare file under a bare name is one of the papers' more often than one of timm's.
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        source = f"ImageNet's, as is usual; where these are timm's own weights for {name}, give the name with its tag"
    else:
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        source = "ImageNet's, as " + ("is usual" if found.layout == "timm" else f"{found.layout} uses them")
    shown = [" ".join(f"{value:g}" for value in each) for each in (mean, std)]
    return mean, std, f"pixels are to be normalized by mean {shown[0]}, std {shown[1]}: {source}"
