"""Weights that timm downloads."""

from __future__ import annotations

import timm

from vitrail.backbones.architecture import build_vit, check_name
from vitrail.backbones.config import BackboneConfig
from vitrail.backbones.report import LoadReport
from vitrail.backbones.staged import is_staged
from vitrail.backbones.t2t_vit import is_t2t_vit
from vitrail.backbones.timm_vit import TimmViT
from vitrail.config import ConfigError
from vitrail.nn.surgery import operate, surgery


def load_pretrained(config: BackboneConfig, allow_partial: bool) -> TimmViT:
    """What timm offers for a name, with its report.

    Raises:
        ValueError: timm has no such weights, they could not be downloaded, or a changed last block (`surgery`) does
            not fit them and `allow_partial` is not set.
    """
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
