"""What LTRP's labels cost: how much a masked autoencoder's reconstruction changes without each visible patch.

    python benchmarks/ltrp_labels.py [--batch 4] [--device cpu] [--bf16] [--trained runs/mae --images photos]

Two ways to the same labels, of the same weights: the library's `PatchRemoval`, and the procedure of the released code,
written here as a class of its own: the whole batch is decoded once for each visible patch, with minus infinity in the
row and the column of that patch in unfused attention over all 197 tokens, predictions of all patches, and the
predictions of all removals kept until the end. Rounds are pairs of both, first the one and then the other in turn; the
ratio is the median of the ratios of pairs. Labels of both are compared. Peak memory is that of the GPU, or on
Linux that of a fresh process, less what it had before, for several numbers of visible patches. All times are kept.

Weights are fresh: what is measured does not depend on them. How far the approximate labels agree with the exact ones
does: give trained masked autoencoders as --trained, and for each a folder of images as --images, or the word scenes for
generated ones. Kendall's tau is the mean over images and draws of visible patches, its error that of the images' means;
the time of both ways is that of these same labels.

Wanted: at least 1.3 times the images a second of the released procedure; approximate labels at least 5 times those of
exact ones, with a tau above 0.9.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from record import record
from torch import Tensor, nn
from torch.nn import functional

from vitrail.backbones import BackboneConfig, create
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.nn.patch_removal import PatchRemoval, RemovalConfig

IMAGES = {".png", ".jpg", ".jpeg"}
WAYS: tuple[Literal["exact"], Literal["approximate"]] = ("exact", "approximate")


class Released:
    """The released procedure: one patch after the other for the whole batch, by a mask on unfused attention."""

    def __init__(self, backbone: nn.Module, decoder: MaskedDecoder) -> None:
        self.backbone, self.decoder = backbone, decoder

    @torch.no_grad()
    def __call__(self, images: Tensor, visible: Tensor) -> Tensor:
        """Labels `[B, V]`."""
        tokens = self.backbone(images, keep=visible)
        sequence = self.decoder.sequence(tokens.cls, tokens.patches, visible, tokens.grid)
        anchor = self._decode(sequence, None)
        kept = torch.stack([self._decode(sequence, visible[:, place]) for place in range(visible.shape[1])])
        hidden = torch.ones(anchor.shape[:2], device=images.device).scatter(1, visible, 0)
        labels = []
        for predictions in kept:
            change = (anchor.float() - predictions.float()).abs().mean(-1)
            labels.append((change * hidden).sum(1) / hidden.sum(1))
        return torch.stack(labels, 1)

    def _decode(self, sequence: Tensor, gone: Tensor | None) -> Tensor:
        away = None
        if gone is not None:
            batch, length, _ = sequence.shape
            row = torch.arange(batch, device=sequence.device)
            away = torch.zeros(batch, 1, length, length, device=sequence.device)
            away[row, :, gone + 1] = -torch.inf
            away[row, :, :, gone + 1] = -torch.inf
        for block in self.decoder.blocks:
            sequence = _masked(block, sequence, away)
        return self.decoder.predict(self.decoder.norm(sequence))[:, 1:]


def _masked(block: Any, x: Tensor, away: Tensor | None) -> Tensor:
    batch, length, wide = x.shape
    attention = block.attn
    qkv = attention.qkv(block.norm1(x)).reshape(batch, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    scores = (query * attention.scale) @ key.transpose(-2, -1)
    if away is not None:
        scores = scores + away
    weights = scores.softmax(-1)
    if away is not None:
        weights = weights.nan_to_num(0)
    mixed = (weights.to(value.dtype) @ value).transpose(1, 2).reshape(batch, length, wide)
    x = x + attention.proj(mixed)
    return x + block.mlp(block.norm2(x))


class Work:
    """Images, visible patches, and the ways to their labels."""

    def __init__(self, options: argparse.Namespace, visible: int | None = None) -> None:
        torch.manual_seed(0)
        sizes = {"embed_dim": options.width, "depth": options.depth, "heads": options.width // 64}
        config = BackboneConfig(name=options.model, image_size=options.image, patch_size=options.patch, **sizes)
        rows = options.image // options.patch
        backbone = create(config)
        small = DecoderConfig(
            embed_dim=options.decoder_width, depth=options.decoder_depth, heads=options.decoder_width // 32
        )
        decoder = MaskedDecoder(small, backbone.embed_dim, (options.patch, options.patch), (rows, rows))
        self.device = torch.device(options.device)
        backbone, decoder = backbone.to(self.device).eval(), decoder.to(self.device).eval()
        count = visible or int(rows * rows * (1 - options.hidden))
        noise = torch.randn(options.batch, 3, options.image // 8, options.image // 8)
        self.images = functional.interpolate(noise, size=options.image, mode="bicubic").to(self.device)
        ids = [torch.randperm(rows * rows)[:count].sort().values for _ in range(options.batch)]
        self.visible = torch.stack(ids).to(self.device)
        self.half = options.bf16
        self.ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "released": Released(backbone, decoder),
            "exact": PatchRemoval(backbone, decoder, RemovalConfig(chunk=options.chunk)),
            "approximate": PatchRemoval(backbone, decoder, RemovalConfig(mode="approximate", chunk=options.chunk)),
        }

    def run(self, way: str) -> tuple[float, Tensor]:
        """Wall time, seconds, and labels on the CPU."""
        wait(self.device)
        start = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext():
            labels = self.ways[way](self.images, self.visible)
        wait(self.device)
        return time.perf_counter() - start, labels.float().cpu()


def wait(device: torch.device) -> None:
    """Let a GPU finish."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Pairs with the exact labels, by either other way; which is first alternates."""
    work = Work(options)
    found = {way: work.run(way)[1] for way in work.ways}
    pairs: dict[str, list[tuple[float, float]]] = {"released": [], "approximate": []}
    for number in range(options.rounds):
        for way, times in pairs.items():
            order = (way, "exact") if number % 2 else ("exact", way)
            taken = {each: work.run(each)[0] for each in order}
            times.append((taken["exact"], taken[way]))
    numbers: dict[str, Any] = {"visible": work.visible.shape[1]}
    numbers["largest_difference_of_labels"] = float((found["released"] - found["exact"]).abs().max())
    numbers["largest_label"] = float(found["exact"].max())
    for way, times in pairs.items():
        faster, slower = ("exact", way) if way == "released" else (way, "exact")
        ratios = sorted(other / exact if way == "released" else exact / other for exact, other in times)
        numbers[f"beside_{way}"] = {
            "exact_images_per_second": options.batch / statistics.median(each for each, _ in times),
            f"{way}_images_per_second": options.batch / statistics.median(each for _, each in times),
            f"images_per_second_{faster}_over_{slower}": statistics.median(ratios),
            "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
            "seconds_exact_and_other": times,
        }
    return numbers


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """MiB at the peak of each way, by the number of visible patches."""
    found: dict[str, Any] = {}
    for visible in options.visible:
        found[str(visible)] = {way: _alone(options, visible, way) for way in ("released", "exact", "approximate")}
    return found


def _alone(options: argparse.Namespace, visible: int, way: str) -> float:
    """Of one call in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (options, visible, way))


def _peak(options: argparse.Namespace, visible: int, way: str) -> float:
    torch.set_num_threads(options.threads)
    work = Work(options, visible)
    if work.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work.run(way)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; a spawned process has its parent's
    before = _resident("VmRSS")
    work.run(way)
    return (_resident("VmHWM") - before) / 1024


def _resident(name: str) -> int:
    """KiB, of Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def agreement(options: argparse.Namespace, trained: str, source: str, hidden: float) -> dict[str, Any]:
    """Kendall's tau of approximate and exact labels of a trained masked autoencoder, and the time that both take."""
    from scipy.stats import kendalltau

    from vitrail.recipes.labels import digest_of
    from vitrail.recipes.reconstructions import open_autoencoder, pixels_of

    found = open_autoencoder(trained, device=options.device)
    images = pixels_of(found.backbone, pictures(source, options.count, found.backbone.image_size)).to(options.device)
    patches = images[0, 0].numel() // (found.backbone.patch_size[0] * found.backbone.patch_size[1])
    count = int(patches * (1 - hidden))
    ways = {way: PatchRemoval(found.backbone, found.decoder, RemovalConfig(mode=way)) for way in WAYS}
    taus, pairs = [], []
    for draw in range(options.draws):
        generator = torch.Generator().manual_seed(draw)
        ids = [torch.randperm(patches, generator=generator)[:count].sort().values for _ in images]
        visible, labels, seconds = torch.stack(ids).to(options.device), {}, {}
        for way in WAYS[:: 1 - 2 * (draw % 2)]:
            wait(images.device)
            start = time.perf_counter()
            labels[way] = ways[way](images, visible)
            wait(images.device)
            seconds[way] = time.perf_counter() - start
        both = zip(labels["exact"].cpu(), labels["approximate"].cpu(), strict=True)
        taus += [float(kendalltau(a.numpy(), b.numpy()).statistic) for a, b in both]
        pairs.append((seconds["exact"], seconds["approximate"]))
    of_images = [statistics.fmean(taus[number :: len(images)]) for number in range(len(images))]
    return {
        "autoencoder": digest_of(found),
        "decoder": found.decoder.config.plain() | {"normalized_targets": found.normalized},
        "images": source if source == "scenes" else Path(source).name,
        "digest_of_images": hashlib.sha256(images.cpu().numpy().tobytes()).hexdigest()[:16],
        "number_of_images": len(images),
        "patches": patches,
        "visible": count,
        "draws": options.draws,
        "kendall_tau_mean": statistics.fmean(taus),
        "kendall_tau_error": statistics.stdev(of_images) / len(of_images) ** 0.5,
        "kendall_tau_deviation": statistics.stdev(taus),
        "images_per_second_approximate_over_exact": statistics.median(exact / rough for exact, rough in pairs),
        "pairs": pairs,
    }


def pictures(source: str, count: int, size: tuple[int, int]) -> list[Any]:
    """Images of a folder, evenly taken, or held-out scenes."""
    from vitrail.data import SyntheticScenes, open_image

    if source == "scenes":
        scenes = SyntheticScenes(count, size[0], 8, 0, "val")
        return [scenes[number].image for number in range(count)]
    files = sorted(path for path in Path(source).rglob("*") if path.suffix.lower() in IMAGES)
    return [open_image(path) for path in files[:: max(len(files) // count, 1)][:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--decoder-width", type=int, default=512)
    parser.add_argument("--decoder-depth", type=int, default=8)
    parser.add_argument("--hidden", type=float, default=0.9, help="share of the patches")
    parser.add_argument("--batch", type=int, default=None, help="images; default 4, on a GPU 64")
    parser.add_argument("--chunk", type=int, default=None, help="sequences that the library decodes at once")
    parser.add_argument("--visible", type=int, nargs="*", default=[4, 19, 49], help="for the peak of memory")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trained", nargs="*", default=[], help="masked autoencoders, to compare approximate labels")
    parser.add_argument("--images", nargs="*", default=[], help="for each a folder of images, or scenes")
    parser.add_argument(
        "--shares", type=float, nargs="*", default=[], help="for each the hidden share, if not --hidden"
    )
    parser.add_argument("--count", type=int, default=32, help="how many of these")
    parser.add_argument("--draws", type=int, default=3, help="of visible patches, for each image")
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    options.batch = options.batch or (64 if options.device.startswith("cuda") else 4)
    torch.set_num_threads(options.threads)
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "trained", "images", "shares")}
    numbers = settings | speed(options) | {"peak_mebibytes_by_visible": memory(options)}
    shares = options.shares or [options.hidden] * len(options.trained)
    each = zip(options.trained, options.images, shares, strict=True)
    numbers["agreement"] = [agreement(options, *words) for words in each]
    for way, words in (("released", "exact_over_released"), ("approximate", "approximate_over_exact")):
        found = numbers[f"beside_{way}"]
        print(
            f"exact {found['exact_images_per_second']:.3f} images/s, {way} {found[f'{way}_images_per_second']:.3f}: "
            f"{words.replace('_', ' ')} {found[f'images_per_second_{words}']:.2f}"
        )
    print(f"peak, MiB: {numbers['peak_mebibytes_by_visible']}")
    for each in numbers["agreement"]:
        print(
            f"{each['images']}, {each['visible']} of {each['patches']} visible: Kendall's tau of approximate labels "
            f"{each['kendall_tau_mean']:.3f} (standard error {each['kendall_tau_error']:.3f}), "
            f"{each['images_per_second_approximate_over_exact']:.2f} times as fast"
        )
    print(f"written to {record('ltrp_labels', numbers, options.out)}")


if __name__ == "__main__":
    main()
