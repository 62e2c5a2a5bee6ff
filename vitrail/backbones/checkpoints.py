"""Load a backbone's weights from anyone's file, and save ours.

A file is read without running code in it, recognized by its names, and fits the model entirely or is refused:
half a checkpoint that loads in silence gives numbers that mean nothing. Our own files are safetensors under
timm's names, with the configuration in the header, so that they need no name and timm reads them too; PVT and CvT,
which timm lacks, have their authors' names.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from vitrail.backbones.architecture import AnyBackbone, build_vit, check_name, create
from vitrail.backbones.config import BackboneConfig
from vitrail.backbones.infer import depth_of, infer, lacks_last_norm2
from vitrail.backbones.layouts import Recognized, recognize
from vitrail.backbones.parts import set_apart
from vitrail.backbones.pvt import PATCH, Pvt, interpolated
from vitrail.backbones.reading import read_file, weights_file
from vitrail.backbones.report import LoadReport
from vitrail.backbones.staged import StagedBackbone, is_staged
from vitrail.backbones.staged_files import library_options
from vitrail.backbones.t2t_vit import FAMILY, is_t2t_vit
from vitrail.backbones.t2t_vit import PATCH as T2T_PATCH
from vitrail.backbones.timm_vit import TimmViT
from vitrail.config import ConfigError
from vitrail.contracts import Exported
from vitrail.nn.surgery import operate, surgery
from vitrail.ops.patches import sides_of

Name = str | BackboneConfig | None
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
        return _pretrained(_changed(_as_config(name), changes), allow_partial)
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
    for name, value in sorted(_network(backbone).state_dict().items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _is_model(name: str) -> bool:
    return timm.is_model(name.partition(".")[0]) or is_staged(name) or name in FAMILY


def _network(backbone: AnyBackbone) -> nn.Module:
    """What holds the weights under the names that they have in files."""
    return backbone.net if isinstance(backbone, StagedBackbone) else backbone.vit


def _as_config(name: Name) -> BackboneConfig:
    if name is None:
        raise ValueError("pretrained weights need a name, as in load('vit_small_patch16_224.dino', 'pretrained')")
    return name if isinstance(name, BackboneConfig) else BackboneConfig(name=name)


def _pretrained(config: BackboneConfig, allow_partial: bool) -> TimmViT:
    if is_t2t_vit(config.name):
        raise ValueError(
            f"timm offers no weights of {config.name}; download its authors' file (81.5_T2T_ViT_14.pth.tar, ..., at "
            "https://github.com/yitu-opensource/T2T-ViT) and load that: load('81.5_T2T_ViT_14.pth.tar')"
        )
    check_name(config.name)
    if is_staged(config.name):
        raise ValueError(
            f"timm offers no weights of {config.name}; download those of its authors (github.com/whai362/PVT, "
            f"github.com/microsoft/CvT), or model.safetensors of a copy at huggingface.co, and load the file: "
            f"load({config.name!r}, 'FILE'), or --weights FILE --model {config.name}"
        )
    about = timm.models.get_pretrained_cfg(config.name)
    if about is None or not about.has_weights:
        arch = config.name.partition(".")[0]
        offered = ", ".join(timm.list_pretrained(f"{arch}*")) or "none; choose another name"
        raise ValueError(f"timm offers no weights under the name {config.name}; for {arch} it offers: {offered}")
    if surgery(config.surgery).changes_block and not allow_partial:
        raise ValueError(
            f"surgery {config.surgery} changes the last block, and timm's weights of {config.name} were "
            "trained with a "
            "plain one; leave surgery out (E adds the entropy loss alone), or pass allow_partial=True"
        )
    try:
        vit = build_vit(config, pretrained=True)
    except ConfigError:
        raise
    except Exception as error:  # what fails in a download depends on the library and on the network
        raise ValueError(_no_weights(config, about.hf_hub_id, error)) from error
    operate(vit, config.surgery)
    backbone = TimmViT(vit, config)
    note = f"{config.name}{f' ({about.tag})' if about.tag and '.' not in config.name else ''}, as timm offers it"
    backbone.report = LoadReport(tuple(vit.state_dict()), (), (), "timm pretrained", notes=(note,))
    return backbone


def _no_weights(config: BackboneConfig, page: str | None, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
    reason = reason if len(reason) <= 160 else f"{reason[:157]}..."
    if "size mismatch" in str(error) or "state_dict" in str(error):
        return f"timm's weights of {config.name} do not fit {config.plain()}; leave the overrides out ({reason})"
    return (
        f"the pretrained weights of {config.name} could not be loaded ({type(error).__name__}: {reason}). "
        f"Without a network: download model.safetensors from https://huggingface.co/{page or 'timm'} elsewhere and "
        f"load it by load({config.name!r}, 'model.safetensors'), or --weights model.safetensors --model {config.name}; "
        f"or run timm.create_model({config.name!r}, pretrained=True) on another machine and copy its Hugging Face "
        "cache (HF_HOME, by default ~/.cache/huggingface) to this one"
    )


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
    config, notes, grid = _architecture(found, own, name, source)
    config = _changed(config, changes)
    config, operated = _follow_surgery(config, found, source, partial)
    backbone = create(config)
    mean, std, pixels = _pixels(found, own, name, backbone)
    backbone.mean, backbone.std = mean, std
    report = _fill(backbone, found, grid, source)
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


def _architecture(
    found: Recognized, own: Mapping[str, Any] | None, name: Name, source: str
) -> tuple[BackboneConfig, tuple[str, ...], tuple[int, int] | None]:
    """The configuration, notes, and the grid of the file's positions where the header says it."""
    if own is None:
        if name is not None:
            return *_follow_library(_as_config(name), found), None
        if found.arch is not None:
            return BackboneConfig(name=found.arch), (f"the file names its architecture: {found.arch}",), None
        try:
            return *infer(found.state, found.layout), None
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    saved = BackboneConfig.parse(own["backbone"], source=f"the header of {source}")
    grid = _saved_grid(saved, found.state)
    if name is None:
        return saved, (), grid
    if isinstance(name, str):
        if name.partition(".")[0] != saved.name.partition(".")[0]:
            raise ValueError(f"{source} holds a {saved.name}, not a {name}; leave the name out, the file knows it")
        return saved, (), grid
    if not surgery(name.surgery).same_block(surgery(saved.surgery)):
        raise ValueError(
            f"{source} was trained with surgery {saved.surgery or 'A (none)'}, and "
            f"{name.surgery or 'A (none)'} was "
            "asked for; the architecture does not change between pre-training and fine-tuning: set the same"
        )
    if is_staged(name.name):  # sizes and activation are the file's, where nothing else is said
        return name.model_copy(update={"options": saved.options | name.options}), (), grid
    return *_follow_filter(name, saved, source), grid


def _saved_grid(saved: BackboneConfig, state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    if saved.image_size is None:
        return None
    sides = sides_of(saved.image_size)
    if is_staged(saved.name):
        return sides[0] // PATCH, sides[1] // PATCH
    kernel = state["patch_embed.proj.weight"].shape[-2:] if "patch_embed.proj.weight" in state else (1, 1)
    if is_t2t_vit(saved.name):
        kernel = (T2T_PATCH, T2T_PATCH)
    return sides[0] // kernel[0], sides[1] // kernel[1]


def _changed(config: BackboneConfig, changes: Mapping[str, Any]) -> BackboneConfig:
    return BackboneConfig.parse(config.plain() | dict(changes)) if changes else config


def _follow_library(config: BackboneConfig, found: Recognized) -> tuple[BackboneConfig, tuple[str, ...]]:
    """Hugging Face's CvT and PVT compute a little differently from the authors' code, with the same weights."""
    option = library_options(found.layout, config.name)
    if not option or option.keys() <= config.options.keys():
        return config, ()
    notes = {
        "activation": "the MLP's activation is gelu, as Hugging Face's CvT computes; the authors' is quick_gelu",
        "inner_eps": "inner_eps is 1e-6, as Hugging Face's PVT computes; the authors' is 1e-5",
    }
    note = notes[next(iter(option))]
    return config.model_copy(update={"options": config.options | option}), (note,)


def _follow_surgery(
    config: BackboneConfig, found: Recognized, source: str, partial: bool
) -> tuple[BackboneConfig, tuple[str, ...]]:
    """The architecture follows the weights: it stays through fine-tuning (Table 4)."""
    gone = lacks_last_norm2(found.state)
    asked = surgery(config.surgery)
    if gone and asked.norm2:
        note = (
            f"{gone}.norm2 is not there: trained with SAR's surgery, built as C (the block of F, too; "
            "D would look the same, if it is one say so by name=BackboneConfig(surgery='D'))"
        )
        return config.model_copy(update={"surgery": "C"}), (note,)
    if not gone and not asked.norm2 and not partial:
        raise ValueError(
            f"surgery {config.surgery} was asked for, but {source} was trained with a plain last block (it "
            "has norm2); the architecture does not change between pre-training and fine-tuning: leave surgery out "
            "(E adds the entropy loss alone), or pass allow_partial=True"
        )
    return config, ()


def _follow_filter(
    config: BackboneConfig, saved: BackboneConfig, source: str
) -> tuple[BackboneConfig, tuple[str, ...]]:
    """The object-aware filter of the weights is built, too: without it they are another network."""
    if config.object_filter == saved.object_filter:
        return config, ()
    if config.object_filter is None:
        note = f"its last block has an object-aware filter ({saved.object_filter}), built as the file says"
        return config.model_copy(update={"object_filter": saved.object_filter}), (note,)
    raise ValueError(
        f"{source} was trained with object_filter {saved.object_filter or 'null'}, and {config.object_filter} was "
        "asked for; leave it out, the file knows its own; vitrail.backbones.add_object_filter puts a fresh one into a "
        "backbone that has none"
    )


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


def _fill(backbone: AnyBackbone, found: Recognized, grid: tuple[int, int] | None, source: str) -> LoadReport:
    """Copy the weights that fit. Raises `ValueError` where a shape differs."""
    target = _network(backbone).state_dict()
    if isinstance(backbone, StagedBackbone):
        state, interpolated = _fit_stages(backbone, dict(found.state), grid)
    else:
        state, interpolated = _fit_positions(backbone, dict(found.state), grid, source)
    wrong = [name for name in target if name in state and state[name].shape != target[name].shape]
    if wrong:
        shown = "; ".join(
            f"{name} is {list(state[name].shape)} in the file and {list(target[name].shape)} in the model"
            for name in wrong[:3]
        )
        raise ValueError(
            f"{source} is a checkpoint of another architecture than {_describe(backbone)}: {shown}"
            f"{f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''}.{_advice(found)}"
        )
    _network(backbone).load_state_dict(state, strict=False)
    return LoadReport(
        matched=tuple(name for name in target if name in state),
        missing=tuple(name for name in target if name not in state),
        unexpected=tuple(name for name in state if name not in target),
        layout=found.layout,
        ignored=found.ignored,
        interpolated=interpolated,
    )


def _describe(backbone: AnyBackbone) -> str:
    name = backbone.config.name if backbone.config else "the model"
    return f"{name} (width {backbone.embed_dim}, {backbone.depth} blocks)"


def _advice(found: Recognized) -> str:
    try:
        config, _ = infer(found.state, found.layout)
    except ValueError:
        return " Give the name of the architecture that it was trained as"
    if is_staged(config.name):
        return (
            f" By its shapes it is a {config.name} with options {config.options}: leave the name out, or give that one"
        )
    width = found.state["cls_token"].shape[-1]
    return (
        f" By its shapes it is a {config.name} with patch {config.patch_size} (width {width}, "
        f"{depth_of(found.state)} blocks): leave the name out, or give that one"
    )


def _fit_stages(
    backbone: StagedBackbone, state: dict[str, Tensor], grid: tuple[int, int] | None
) -> tuple[dict[str, Tensor], str | None]:
    """Bring the positions of PVT's stages to the model's grids; CvT has none.

    `grid` is that of the last stage, where our header says it; other files are of square images.
    """
    net = backbone.net
    positions = state.get("pos_embed4")
    if not isinstance(net, Pvt) or positions is None:
        return state, None
    side = math.isqrt(max(positions.shape[1] - 1, 0))
    old, new = grid or (side, side), net.grid_at(3, backbone.image_size)
    if old == new or positions.shape[1] == new[0] * new[1] + 1:
        return state, None
    resized = dict(state)
    for stage in range(4):
        name, times = f"pos_embed{stage + 1}", 2 ** (3 - stage)
        of_file = (old[0] * times, old[1] * times)
        if name in state and state[name].shape[1] == of_file[0] * of_file[1] + (stage == 3):
            resized[name] = interpolated(state[name], of_file, net.grid_at(stage, backbone.image_size))
    return resized, f"{old[0]}x{old[1]} to {new[0]}x{new[1]} in the last stage"


def _fit_positions(
    backbone: TimmViT, state: dict[str, Tensor], grid: tuple[int, int] | None, source: str
) -> tuple[dict[str, Tensor], str | None]:
    """Bring the file's positions to the model's grid (bicubic, antialiased), where they only differ in it."""
    vit, positions = backbone.vit, state.get("pos_embed")
    if vit.pos_embed is None or positions is None or positions.shape[-1] != vit.pos_embed.shape[-1]:
        return state, None
    new = tuple(vit.patch_embed.grid_size)
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    count = positions.shape[1] - prefix
    side = int(max(count, 0) ** 0.5 + 0.5)
    old = grid if grid is not None and grid[0] * grid[1] == count else (side, side)
    if old[0] * old[1] != count:
        if count == new[0] * new[1]:
            return state, None
        raise ValueError(
            f"{source} has {positions.shape[1]} positions, which are no square grid plus {prefix} tokens; "
            "say the grid: "
            "name=BackboneConfig(name=..., image_size=(height, width)) of the training"
        )
    if old == new:
        return state, None
    resized = resample_abs_pos_embed(
        positions.float(), new_size=list(new), old_size=list(old), num_prefix_tokens=prefix
    )
    return state | {"pos_embed": resized}, f"{old[0]}x{old[1]} to {new[0]}x{new[1]}"
