"""What stands beside a backbone in the weights that training goes on from: decoders, heads, centers; taken over or
fresh."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import nn

from vitrail.backbones import AnyBackbone, load, load_classifier
from vitrail.backbones.parts import Part, load_part
from vitrail.backbones.reading import read_file, weights_file
from vitrail.nn.ml_decoder import MlDecoder, MlDecoderConfig
from vitrail.nn.soft_targets import SoftTargets
from vitrail.recipes.weights import find_weights

log = logging.getLogger("vitrail")


_WORDS = {
    "projector": "head",
    "patch_projector": "head for patches",
    "center2": "center for patches",
}  # what a part of a file is called where people read it


ML_DECODER = "ml_decoder"  # what `vitrail.methods.kept_patches` calls its part


class Classifier(NamedTuple):
    """What `open_classifier` returns."""

    backbone: AnyBackbone
    head: nn.Module
    classes: tuple[str, ...] | None  # names of the outputs; None where the file has none
    pool: Literal["cls", "mean", "all"]  # what the head reads: class token, mean of the patches, or all tokens


def open_classifier(weights: str, model: str | None = None, *, key: str = "auto") -> Classifier:
    """A backbone and its head, linear or an ML-Decoder. `ValueError` as `vitrail.backbones.load_classifier`."""
    where = find_weights(weights)
    part = load_part(where, ML_DECODER, checkpoint_key=key)
    if part is None:
        return Classifier(*load_classifier(where, model, checkpoint_key=key))
    sizes = {name: value for name, value in part.config.items() if name not in ("classes", "features")}
    head = MlDecoder(MlDecoderConfig.parse(sizes, source=part.source), part.config["features"], part.config["classes"])
    part.fill(head)
    own = read_file(weights_file(where))[1] or {}
    return Classifier(load(None, where), head, tuple(own["classes"]) if "classes" in own else None, "all")


def take_over(
    weights: str, parts: Mapping[str, nn.Module], *, normalized_targets: bool | None = None
) -> tuple[str, ...]:
    """Fill modules from a file; those it does not have start fresh, which is said aloud.

    Args:
        weights: as `--init-from` names them.
        parts: modules by the name of the part.
        normalized_targets: what a decoder is to predict; a file that says otherwise is taken with a warning.

    Returns:
        The names of those that were filled.

    Raises:
        ValueError: where the file's part has other sizes, or is built otherwise.
    """
    filled: list[str] = []
    for name, module in parts.items():
        part = _part(weights, name)
        if part is None:
            log.warning("%s brings no %s: it starts fresh", weights, _WORDS.get(name, name))
            continue
        _check_attention_heads(part, module)
        _translated(part, module).fill(module)
        log.info("%s: taken over from %s", _WORDS.get(name, name), weights)
        if normalized_targets is not None and part.normalized_targets not in (None, normalized_targets):
            log.warning(
                "%s: its %s learned with normalized_targets=%s and goes on with method.normalized_targets=%s",
                weights,
                name,
                part.normalized_targets,
                normalized_targets,
            )
        filled.append(name)
    return tuple(filled)


def take_over_fitting(weights: str, head: nn.Module, name: str = "projector") -> bool:
    """Fill a head from a file whose head has the same sizes; any other starts fresh, which is said aloud."""
    part = _part(weights, name)
    if part is None:
        log.info("%s brings no %s: it starts fresh", weights, _WORDS.get(name, name))
        return False
    try:
        _translated(part, head).fill(head)
    except ValueError as error:
        log.info("the %s of %s is another one and starts fresh (%s)", _WORDS.get(name, name), weights, error)
        return False
    log.info("%s: taken over from %s", _WORDS.get(name, name), weights)
    return True


def take_over_centers(weights: str, targets: Mapping[str, SoftTargets]) -> tuple[str, ...]:
    """Fill centers, `center` and iBOT's `center2`, from a file that has them; others start at 0, which is said aloud.

    Returns the names of those that were filled. Call it for the centers of heads that were taken over alone.
    """
    part = _part(weights, "centers") if targets else None
    filled = []
    for name, each in targets.items():
        found = None if part is None else part.state.get(name)
        if found is None:
            log.warning("%s brings no %s: it starts at 0", weights, _WORDS.get(name, name))
        elif found.numel() != each.center.numel():
            log.warning(
                "%s: its %s is of %d prototypes, not %d: it starts at 0",
                weights,
                name,
                found.numel(),
                each.center.numel(),
            )
        else:
            with torch.no_grad():
                each.center.copy_(found.reshape(-1))
            log.info("%s: taken over from %s", _WORDS.get(name, name), weights)
            filled.append(name)
    return tuple(filled)


def one_head(weights: str) -> bool:
    """Whether a file's head serves class tokens and patches alike; prototypes that are left out are said aloud."""
    head, of_patches = _part(weights, "projector"), _part(weights, "patch_projector")
    if head is None or of_patches is None:
        return True
    same = all(name in head.state and torch.equal(value, head.state[name]) for name, value in of_patches.state.items())
    if not same:
        log.warning(
            "%s has a head of its own for patches, and method.patch_head is null: it is left out, patches go on with "
            "the class tokens' head",
            weights,
        )
    return same


def _part(weights: str, name: str) -> Part | None:
    found = find_weights(weights)
    return None if found == "pretrained" else load_part(found, name)


def _translated(part: Part, module: nn.Module) -> Part:
    translate = getattr(module, "translated", None)
    if translate is None:
        return part
    try:
        return part._replace(state=translate(part.state))
    except ValueError as error:
        raise ValueError(f"{part.source}: {error}") from None


def _check_attention_heads(part: Part, module: nn.Module) -> None:
    """No shape tells how many heads a decoder attends with; weights for another number compute something else."""
    said = part.config.get("decoder", part.config).get("heads")
    mine = getattr(getattr(module, "config", None), "heads", None)
    if said in (None, mine) or mine is None:
        return
    if part.notes:  # somebody else's file, for which it was guessed
        log.warning("%s: %d attention heads, where a guess from its width is %d", part.source, mine, said)
        return
    raise ValueError(
        f"{part.source}: its decoder attends with {said} heads, and method.decoder.heads is {mine}; set it to {said}"
    )
