"""The decoder in a checkpoint of MAE, from its names and its order of pixels to `vitrail.nn.masked_autoencoder`.

The authors' files name it `mask_token` and `decoder_*`, beside the encoder; transformers' ViTMAE names the same weights
`decoder.*`. Both predict row, column, channel of a patch, where ours predicts channel, row, column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from vitrail.backbones.layouts import Recognized, from_hugging_face
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.nn.positions import sine_cosine

_NAMES = (
    ("decoder_embed.", "embed."),
    ("decoder_blocks.", "blocks."),
    ("decoder_norm.", "norm."),
    ("decoder_pred.", "predict."),
)


def read_decoder(
    found: Recognized, heads: int | None = None
) -> tuple[dict[str, Tensor], DecoderConfig, tuple[str, ...]] | None:
    """State for `MaskedDecoder`, its sizes read from the shapes, and what was guessed; None without a decoder.

    Args:
        found: what `recognize` found in the file.
        heads: attention heads per block, which no shape tells; None guesses 16 for the published width of 512,
            otherwise 32 channels each.

    Raises:
        ValueError: half a decoder, shapes that do not belong together, positions other than the fixed ones, or a
            width for which no number of heads can be guessed.
    """
    theirs = _theirs(found)
    if not any(name.startswith("decoder_") for name in theirs):
        return None
    if "cls_token" not in found.state:
        raise ValueError("it has a decoder, and its encoder no class token: no MAE of the published kind")
    positions = theirs.pop("decoder_pos_embed", None)
    state = {_ours(name): value for name, value in theirs.items()}
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    if "mask_token" not in state or not depth:
        raise ValueError("it holds only a part of MAE's decoder: there is no mask_token, or no decoder_blocks")
    wide = state["mask_token"].shape[-1]
    count, guess = (heads, ()) if heads else _heads(wide)
    config = DecoderConfig.parse({"embed_dim": wide, "depth": depth, "heads": count}, source="its decoder")
    kernel = found.state["patch_embed.proj.weight"].shape
    with torch.device("meta"):
        target = MaskedDecoder(config, found.state["cls_token"].shape[-1], (kernel[2], kernel[3])).state_dict()
    reason = misfit(state, target)
    if reason:
        raise ValueError(f"its decoder is not MAE's beside this encoder: {reason}")
    if positions is not None:
        _check_positions(positions, wide)
    for name in ("predict.weight", "predict.bias"):
        state[name] = _channels_first(state[name], kernel[2], kernel[3])
    return state, config, guess


def misfit(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> str | None:
    """Why tensors do not fit a module's state, by name and shape; None where they do."""
    lacking, odd = [name for name in target if name not in state], [name for name in state if name not in target]
    wrong = [name for name in target if name in state and state[name].shape != target[name].shape]
    if wrong:
        name, more = wrong[0], f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return f"{name} is {list(state[name].shape)} in the file and {list(target[name].shape)} in the model{more}"
    reasons = [
        f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in (("it lacks", lacking), ("it has besides", odd))
        if names
    ]
    return "; ".join(reasons) or None


def _theirs(found: Recognized) -> dict[str, Tensor]:
    """The decoder under the authors' names."""
    if found.layout != "Hugging Face ViT":
        return {
            name: value for name, value in found.inside.items() if name == "mask_token" or name.startswith("decoder_")
        }
    parent = re.sub(r"[^.]*\.$", "", found.prefix)
    prefix = f"{parent}decoder."
    bare = {name[len(prefix) :]: value for name, value in found.outside.items() if name.startswith(prefix)}
    layers = {name.replace("decoder_layers.", "encoder.layer.", 1): value for name, value in bare.items()}
    return {re.sub(r"^blocks\.", "decoder_blocks.", name): value for name, value in from_hugging_face(layers).items()}


def _ours(name: str) -> str:
    return next((new + name[len(old) :] for old, new in _NAMES if name.startswith(old)), name)


def _heads(wide: int) -> tuple[int, tuple[str, ...]]:
    if wide % 32:
        raise ValueError(
            f"its decoder is {wide} wide, no multiple of 32, so the number of its attention heads is unknown; say it: "
            "heads=..., on the command line --decoder-heads"
        )
    count = wide // 32
    reason = "as MAE's published decoders have" if wide == 512 else "32 channels each, as in MAE's"
    otherwise = "heads=..., on the command line --decoder-heads, says otherwise"
    return count, (f"{count} attention heads in the decoder are a guess ({reason}); {otherwise}",)


def _check_positions(positions: Tensor, wide: int) -> None:
    """A decoder whose positions were learned would give other numbers with the fixed ones."""
    patches = positions.reshape(-1, positions.shape[-1])[1:].float()
    for grid in _grids(len(patches)):
        if patches.shape[1] == wide and torch.allclose(patches, sine_cosine(grid, wide), rtol=0, atol=5e-3):
            return
    raise ValueError(
        f"its decoder_pos_embed {list(positions.shape)} are not MAE's fixed sines and cosines, and the decoder here "
        "has no others; continue from the backbone alone"
    )


def _grids(count: int) -> Iterator[tuple[int, int]]:
    yield from ((rows, count // rows) for rows in range(1, count + 1) if count % rows == 0)


def _channels_first(rows: Tensor, tall: int, wide: int) -> Tensor:
    """Reorder the last layer's outputs, the first axis, from row, column, channel to channel, row, column."""
    return rows.unflatten(0, (tall, wide, 3)).movedim(2, 0).flatten(0, 2).contiguous()
