"""A convolutional network of timm's from what a ranker is opened from: everyone's files of ResNets, and their sizes.

    timm, torchvision     flat, or {"state_dict"} or {"model"}, names with or without `module.`
    MoCo v1, v2           {"state_dict"} with `module.encoder_q.` and `module.encoder_k.`
    MoCo-v3               {"state_dict"} with `module.base_encoder.` and `module.momentum_encoder.`

timm's ResNets and torchvision's have the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm
from torch import Tensor

from vitrail.backbones.reading import read_file, weights_file
from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vitrail.ops.patches import sides_of
from vitrail.rankers.source import Source

NETWORKS = ("encoder_q", "base_encoder", "encoder_k", "momentum_encoder")  # those of MoCo, preferred ones first
_RESNETS: dict[
    tuple[tuple[int, ...], bool], str
] = {  # by blocks in each stage, and whether blocks have a third convolution
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


class ConvNet(NamedTuple):
    """A network and how it wants its images."""

    model: Any
    """timm's model: `forward_features`, `forward_head`, `num_features`."""
    mean: Sequence[float]
    std: Sequence[float]
    image_size: tuple[int, int]
    patch_size: tuple[int, int]


def open_convnet(source: Source, *, classifier: bool) -> ConvNet:
    """A convolutional network with its weights, all of them or an error.

    Args:
        source: `weights`, a file or "pretrained"; `model`, timm's name, which ResNets do not need; `image_size`, by
            default what timm says of the model; `patch_size`, 16 by default.
        classifier: with its classifier, which must be there; otherwise any head is passed by.

    Raises:
        ValueError: for a file of another network, one without a classifier, or a failed download.
    """
    assert source.weights is not None
    if source.weights == "pretrained":
        return described(pretrained_model(source.model, classifier=classifier), source)
    path = weights_file(source.weights)
    state = network_of(read_file(path)[0], source.key, str(path))
    return described(_filled(state, source.model, classifier, str(path)), source)


def described(model: Any, source: Source) -> ConvNet:
    """A model of timm's and how it wants its images.

    Normalized as timm says where the weights are its own or the name has a tag, otherwise by ImageNet's values.
    """
    said = model.pretrained_cfg
    as_timm = source.weights == "pretrained" or "." in (source.model or "")
    size = source.image_size or tuple(said["input_size"][1:])
    patch = source.patch_size or 16
    return ConvNet(
        model,
        said["mean"] if as_timm else IMAGENET_MEAN,
        said["std"] if as_timm else IMAGENET_STD,
        sides_of(size),
        (patch, patch),
    )


def feature_map(model: Any, images: Tensor) -> Tensor:
    """The last feature map `[B, C, y, x]`. `ValueError` for a network that has none in this order of axes."""
    features: Tensor = model.forward_features(images)
    if features.ndim != 4 or features.shape[1] != model.num_features:
        raise ValueError(
            f"the features of this {type(model).__name__} are {list(features.shape)}, no map [B, {model.num_features}, "
            "y, x]; choose a convolutional network, such as resnet50"
        )
    return features


def network_of(content: Mapping[str, Any], key: str = "auto", where: str = "the file") -> dict[str, Tensor]:
    """Weights of one network under its own names.

    Args:
        content: of a file.
        key: one of `NETWORKS`; "auto" takes the first that is there.
        where: the file's name, for errors.

    Raises:
        ValueError: for a key that is not there.
    """
    for nested in ("state_dict", "model"):
        if isinstance(content.get(nested), Mapping):
            content = content[nested]
    tensors = {re.sub(r"^module\.", "", name): value for name, value in content.items() if isinstance(value, Tensor)}
    there = [each for each in NETWORKS if any(name.startswith(f"{each}.") for name in tensors)]
    if key != "auto" and key not in there:
        raise ValueError(
            f"{where} has no network {key!r}; it has {', '.join(there) or 'one network, so leave key out'}"
        )
    if not there:
        return tensors
    prefix = f"{there[0] if key == 'auto' else key}."
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def resnet_name(state: Mapping[str, Tensor]) -> str | None:
    """timm's name of the ResNet with these weights, read from their names; None for another network."""
    blocks = [(int(found[1]), int(found[2])) for name in state if (found := re.match(r"layer(\d)\.(\d+)\.", name))]
    stages = tuple(1 + max((block for at, block in blocks if at == stage), default=-1) for stage in (1, 2, 3, 4))
    name = _RESNETS.get((stages, "layer1.0.conv3.weight" in state))
    plain = "conv1.weight" in state and tuple(state["conv1.weight"].shape) == (64, 3, 7, 7)
    return name if plain else None


def _filled(state: Mapping[str, Tensor], name: str | None, classifier: bool, where: str) -> Any:
    """timm's model with these weights."""
    if (name := name or resnet_name(state)) is None:
        shown = ", ".join(list(state)[:5]) or "no tensors"
        raise ValueError(
            f"{where} is no plain ResNet; say timm's name of the network (model=, or --model), or, where it is a "
            f"Vision Transformer, take a ranker that reads one, such as dino. It holds {shown}"
        )
    model = _built(name, _classes(state, name, where) if classifier else 0)
    wanted = model.state_dict()
    if not classifier:  # any head is passed by, MoCo's projection, say
        state = {each: value for each, value in state.items() if not each.startswith(f"{_classifier(name)}.")}
    counters = "num_batches_tracked"  # older files lack them, and they are of no use here
    missing = [each for each in wanted if each not in state and not each.endswith(counters)]
    besides = [each for each in state if each not in wanted]
    wrong = [each for each in wanted if each in state and wanted[each].shape != state[each].shape]
    if missing or besides or wrong:
        found = (("lacks", missing), ("has besides", besides), ("has in another shape", wrong))
        words = "; ".join(f"it {what} {_shown(names)}" for what, names in found if names)
        raise ValueError(
            f"{where} does not hold the weights of {name}: {words}; say the right name (model=, or --model)"
        )
    model.load_state_dict(state, strict=False)
    return model


def _shown(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _classes(state: Mapping[str, Tensor], name: str, where: str) -> int:
    weight = state.get(f"{_classifier(name)}.weight")
    if weight is None:
        raise ValueError(f"{where} holds no classifier ({_classifier(name)}.weight), only a backbone")
    return len(weight)


def _classifier(name: str) -> str:
    """The name that timm gives to the model's classifier."""
    said = timm.models.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    return said.classifier if said is not None and isinstance(said.classifier, str) else "fc"


def _built(name: str, classes: int | None, pretrained: bool = False) -> Any:
    """timm's model; `classes` None for its own number, 0 for no classifier."""
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm {timm.__version__} has no model {name!r}; timm.list_models('resnet*') names some")
    given: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    return timm.create_model(name, pretrained=pretrained, **given)


def pretrained_model(name: str | None, *, classifier: bool) -> Any:
    """timm's model with the weights that it downloads. `ValueError` without a name or a network."""
    if name is None:
        raise ValueError("pretrained weights need a model's name, as in model='resnet50.a1_in1k'")
    try:
        return _built(name, None if classifier else 0, pretrained=True)
    except ValueError:
        raise
    except Exception as error:  # what fails in a download depends on the library and on the network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(
            f"the pretrained weights of {name} could not be loaded ({type(error).__name__}: {reason}). Without a "
            "network: download the file elsewhere and give its path as weights, with the model's name"
        ) from error
