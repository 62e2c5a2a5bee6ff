"""Recipes of MAE, DINO and iBOT: values, what they take over, what a run leaves, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vitrail import catalog
from vitrail.backbones import BackboneConfig, create, load, load_part, save_exported
from vitrail.config import ConfigError
from vitrail.methods.ibot import Ibot
from vitrail.nn.prototype_head import HeadConfig, PrototypeHead
from vitrail.nn.soft_targets import SoftTargets, TargetConfig
from vitrail.recipes import dino, ibot, mae
from vitrail.recipes.heads import take_over_centers
from vitrail.recipes.run import Verbs, describe, prepare, resolve, run

COMMON = [
    "data.scenes.count=64",
    "data.scenes.val_count=16",
    "data.scenes.image_size=24",
    "backbone.patch_size=6",
    "backbone.embed_dim=24",
    "backbone.depth=2",
    "backbone.heads=2",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.global_batch_size=16",
    "train.device=cpu",
    "probe.train=32",
    "probe.val=16",
]
HEAD = ["method.head.prototypes=12", "method.head.hidden_dim=16", "method.head.bottleneck_dim=8"]
HEAD += ["method.targets.kind=centering"]
VIEWS = ["views.global_size=24", "views.local_size=12", "views.locals=1"]
TINY = {
    "mae": [
        *COMMON,
        "augment.image_size=24",
        "method.decoder.embed_dim=16",
        "method.decoder.depth=1",
        "method.decoder.heads=2",
    ],
    "dino": [*COMMON, *HEAD, *VIEWS],
    "ibot": [*COMMON, *HEAD, *VIEWS, "method.patch_targets.kind=centering"],
}
SCENES: dict[str, Any] = {"mae": mae.scenes_mae, "dino": dino.scenes_dino, "ibot": ibot.scenes_ibot}
MODULES: dict[str, Any] = {"mae": mae, "dino": dino, "ibot": ibot}
OWN = "method.patch_head={prototypes: 7, hidden_dim: 16, bottleneck_dim: 8}"
KINDS = ["mae", "dino", "ibot"]
SMALL = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
WIDE = SMALL.model_copy(update={"embed_dim": 64, "heads": 1})  # 64 channels a head, as files without words have them


def parts(kind: str, settings: list[str], *more: str) -> Any:
    return MODULES[kind].build(SCENES[kind]().override([*TINY[kind], *settings, *more]), 0, 1)


def assert_equal(one: nn.Module, other: dict[str, torch.Tensor], prefix: str = "") -> None:
    state = one.state_dict()
    assert state
    for name, value in state.items():
        assert torch.equal(value, other[prefix + name]), name


class Runs(dict[str, Path]):
    """A short run of each kind, made when it is first asked for."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def __missing__(self, kind: str) -> Path:
        settings = [OWN] if kind == "ibot" else []
        run(SCENES[kind]().override([*TINY[kind], *settings]), Verbs(), self.place / kind)
        self[kind] = self.place / kind
        return self[kind]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_leaves(kind: str, trained: Runs) -> None:
    folder = trained[kind]
    for name in ("config.yaml", "versions.json", "log.txt", "checkpoints/last.pt", "curves.png"):
        assert (folder / name).stat().st_size > 0, name
    backbone = load(weights=folder)
    assert (backbone.embed_dim, backbone.image_size, backbone.mean) == (24, (24, 24), (0.5, 0.5, 0.5))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (knn,) = [line["val/knn_top1"] for line in lines if "val/knn_top1" in line]
    assert 0 <= knn <= 100
    assert all(np.isfinite(value) for line in lines for value in line.values())
    what = "reconstruction" if kind == "mae" else "attention"
    captions = json.loads((folder / "pictures" / "captions.json").read_text())
    assert set(captions) == {f"{what}_before.png", f"{what}_after.png"}
    assert resolve(str(folder / "config.yaml")).kind == kind  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_run_everything_is_taken_over(kind: str, trained: Runs, tmp_path: Path) -> None:
    names = {"mae": ["decoder"], "dino": ["projector"], "ibot": ["projector", "patch_projector"]}[kind]
    settings = [OWN] if kind == "ibot" else []
    method = parts(kind, settings, f"init_from={trained[kind]}").method
    assert_equal(method.backbone.vit, load(weights=trained[kind]).vit.state_dict())
    modules = {"mae": ["decoder"], "dino": ["head"], "ibot": ["head", "patch_head"]}[kind]
    for name, module in zip(names, modules):
        part = load_part(trained[kind], name)
        assert part is not None
        assert_equal(getattr(method, module), part.state)
        if kind != "mae":
            assert_equal(getattr(method, f"teacher_{module}"), part.state)
    if kind != "mae":
        assert_equal(method.teacher, method.backbone.state_dict())
        centers = load_part(trained[kind], "centers")
        assert centers is not None
        assert centers.state["center"].any()
        assert torch.equal(method.targets.center, centers.state["center"])
    if kind == "ibot":
        assert torch.equal(method.patch_targets.center, centers.state["center2"])  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_backbone_alone_the_rest_starts_fresh_and_says_so(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = create(SMALL)
    save_exported(backbone.export(), tmp_path / "w.safetensors")
    caplog.set_level("WARNING", logger="vitrail")
    method = parts(kind, [f"init_from={tmp_path / 'w.safetensors'}"]).method
    assert_equal(method.backbone, backbone.state_dict())
    words = "decoder" if kind == "mae" else "head"
    assert f"w.safetensors brings no {words}: it starts fresh" in caplog.text
    assert "center" not in caplog.text  # of a fresh head it is 0 anyway
    if kind != "mae":
        assert_equal(method.teacher_head, method.head.state_dict())
        assert not method.targets.center.any()


def test_heads_of_another_size_are_refused_with_both_sizes(trained: Runs) -> None:
    with pytest.raises(ValueError, match=r"prototypes is \[12, 8\] in the file and \[13, 8\]"):
        parts("dino", [f"init_from={trained['dino']}"], "method.head.prototypes=13")
    with pytest.raises(ValueError, match=r"decoder attends with 2 heads, and method\.decoder\.heads is 4; set it to 2"):
        parts("mae", [f"init_from={trained['mae']}"], "method.decoder.heads=4")


def test_other_targets_are_said_aloud(trained: Runs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="vitrail")
    parts("mae", [f"init_from={trained['mae']}"], "method.normalized_targets=false")
    assert "normalized_targets=True and goes on with method.normalized_targets=False" in caplog.text


def test_heads_between_dino_and_ibot(trained: Runs, caplog: pytest.LogCaptureFixture) -> None:
    """DINO goes on as iBOT; prototypes for patches that have no place are left out, aloud."""
    caplog.set_level("WARNING", logger="vitrail")
    method = parts("ibot", [f"init_from={trained['dino']}"]).method
    assert_equal(method.head, load_part(trained["dino"], "projector").state)  # type: ignore[union-attr]
    assert method.targets.center.any()
    assert not method.patch_targets.center.any()
    assert "brings no center for patches: it starts at 0" in caplog.text
    caplog.clear()
    method = parts("ibot", [f"init_from={trained['ibot']}"]).method
    assert method.patch_head is None
    assert not method.patch_targets.center.any()
    assert "has a head of its own for patches, and method.patch_head is null" in caplog.text
    dino_again = parts("dino", [f"init_from={trained['ibot']}"]).method
    assert_equal(dino_again.head, load_part(trained["ibot"], "projector").state)  # type: ignore[union-attr]


class TestPublishedFiles:
    @pytest.fixture
    def ibot_file(self, tmp_path: Path) -> Any:
        """A file as iBOT's training writes it; returns a function of whether patches have prototypes of their own."""

        def write(own: bool, center: int = 12) -> Path:
            torch.manual_seed(4)
            mlp = nn.Sequential(nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 8))
            head = {f"mlp.{name}": value for name, value in mlp.state_dict().items()}
            first, second = torch.randn(12, 8), torch.randn(7, 8)
            head |= {"last_layer.weight_g": torch.rand(12, 1) + 1, "last_layer.weight_v": first}
            own_g = torch.rand(7, 1) + 1
            head |= {
                "last_layer2.weight_g": own_g if own else head["last_layer.weight_g"],
                "last_layer2.weight_v": second if own else first,
            }
            network = {f"backbone.{name}": value for name, value in create(WIDE).export().state.items()}
            network["backbone.masked_embed"] = torch.zeros(1, 64)
            network |= {f"head.{name}": value for name, value in head.items()}
            wrapped = {f"module.{name}": value for name, value in network.items()}
            loss = {"center": torch.randn(1, center), "center2": torch.randn(1, 1, 7 if own else 12)}
            content = {"student": wrapped, "teacher": network, "ibot_loss": loss, "epoch": 1}
            torch.save(content, path := tmp_path / "checkpoint.pth")
            return path

        return write

    def test_a_shared_head(self, ibot_file: Any) -> None:
        path = ibot_file(False)
        method = parts("ibot", [f"init_from={path}"], "method.head.fixed_norm=false").method
        content = torch.load(path, weights_only=True)
        theirs = content["teacher"]
        assert torch.equal(method.head.prototypes, theirs["head.last_layer.weight_v"])
        assert torch.equal(method.teacher_head.norms, theirs["head.last_layer.weight_g"][:, 0])
        assert torch.equal(method.teacher_head.mlp[4].bias, theirs["head.mlp.4.bias"])
        assert torch.equal(method.targets.center, content["ibot_loss"]["center"][0])
        assert torch.equal(method.patch_targets.center, content["ibot_loss"]["center2"][0, 0])

    def test_prototypes_of_patches(self, ibot_file: Any, caplog: pytest.LogCaptureFixture) -> None:
        path = ibot_file(True)
        own = OWN.replace("}", ", fixed_norm: false}")
        method: Ibot = parts("ibot", [f"init_from={path}"], "method.head.fixed_norm=false", own).method
        content = torch.load(path, weights_only=True)
        assert method.patch_head is not None
        assert method.teacher_patch_head is not None
        assert torch.equal(method.patch_head.prototypes, content["teacher"]["head.last_layer2.weight_v"])
        assert_equal(method.teacher_patch_head, method.patch_head.state_dict())
        assert_equal(method.patch_head.mlp, method.head.mlp.state_dict())
        assert torch.equal(method.patch_targets.center, content["ibot_loss"]["center2"][0, 0])
        caplog.set_level("WARNING", logger="vitrail")
        shared = parts("ibot", [f"init_from={path}"], "method.head.fixed_norm=false").method
        assert "has a head of its own for patches" in caplog.text
        assert not shared.patch_targets.center.any()

    def test_learned_lengths_name_the_option_and_the_file(self, ibot_file: Any) -> None:
        with pytest.raises(ValueError, match=r"checkpoint\.pth: the prototypes have learned.*fixed_norm=false"):
            parts("dino", [f"init_from={ibot_file(False)}"])

    def test_a_center_of_another_size_starts_at_zero(self, ibot_file: Any, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("WARNING", logger="vitrail")
        targets = SoftTargets(TargetConfig(), 12)
        assert take_over_centers(str(ibot_file(False, center=9)), {"center": targets}) == ()
        assert "its center is of 9 prototypes, not 12: it starts at 0" in caplog.text
        assert take_over_centers("pretrained", {}) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_without_the_weights_it_started_from(kind: str, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_exported(create(SMALL).export(), weights)
    settings = [*TINY[kind], "data.scenes.count=32", "probe.train=16"]
    started, _ = prepare(f"scenes_{kind}", settings, Verbs(init_from=str(weights)))
    run(started, Verbs(init_from=str(weights)), tmp_path / "run")
    weights.unlink()
    longer, _ = prepare(f"scenes_{kind}", settings, Verbs(extend=2), tmp_path / "run")
    assert longer.init_from == str(weights)  # type: ignore[attr-defined]
    assert run(longer, Verbs(extend=2), tmp_path / "run").steps == 4


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_classes(kind: str, tmp_path: Path) -> None:
    for split, count in (("train", 16), ("val", 4)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / split / f"{number}.png")
    settings = [*TINY[kind], f"data.root={tmp_path / 'photos'}"]
    made = MODULES[kind].build(SCENES[kind]().override(settings), 0, 1)
    if kind in ("dino", "ibot"):  # nothing to be classified; attention is looked at all the same
        assert made.evaluate is not None
        assert {name.partition("_head_")[0] for name in made.evaluate()} == {"spatial_entropy", "blobs"}
        made = MODULES[kind].build(SCENES[kind]().override([*settings, "attention.images=0"]), 0, 1)
    assert made.evaluate is None
    if kind == "mae":
        outcome = run(SCENES[kind]().override(settings), Verbs(), tmp_path / "run")
        assert outcome.steps == 1
        assert not any(name.startswith("val/") for name in outcome.losses)


@pytest.mark.parametrize("mask", ["dpp", "block", "attmask"])
@pytest.mark.parametrize("kind", ["mae", "ibot"])
def test_a_mask_is_one_setting(kind: str, mask: str) -> None:
    made = parts(kind, [f"method.mask.kind={mask}"])
    assert type(made.method.mask).__name__.lower() == mask
    first = next(iter(made.loader.batches(0, 1)))[0]
    assert made.method.training_step(first, tiny_step()).total.isfinite()


def tiny_step() -> Any:
    from vitrail.contracts import Step

    return Step(0, 4)


@pytest.mark.parametrize("kind", ["dino", "ibot"])
def test_weights_of_regularizers_know_how_long_training_is(kind: str) -> None:
    weight = "{kind: warmup_cosine, warmup_epochs: 1, peak: 0.5}"
    made = parts(kind, [f"method.regularizers=[{{kind: spatial_entropy, weight: {weight}}}]", "train.epochs=3"])
    first = next(iter(made.loader.batches(0, 1)))[0]
    assert made.method.training_step(first, tiny_step()).parts["spatial_entropy_weight"] == 0
    with pytest.raises(ConfigError, match=r"planned for 7 epochs.*train\.epochs is 5"):
        SCENES[kind]().override([f"method.regularizers=[{{weight: {weight.replace('peak', 'epochs: 7, peak')}}}]"])


class TestRefused:
    def test_sizes_that_disagree(self) -> None:
        for kind, name in (("mae", r"augment\.image_size"), ("dino", r"views\.global_size")):
            with pytest.raises(ConfigError, match=rf"backbone\.image_size 24 and {name} 48 differ"):
                SCENES[kind]().override(["backbone.image_size=24"])
            key = "augment.image_size" if kind == "mae" else "views.global_size"
            with pytest.raises(ConfigError, match=rf"scenes of 48 pixels are not what {name} 24"):
                MODULES[kind].check(SCENES[kind]().override([f"{key}=24"]))

    @pytest.mark.parametrize("kind", ["dino", "ibot"])
    def test_crops_that_hold_no_whole_patches(self, kind: str, tmp_path: Path) -> None:
        recipe = SCENES[kind]()
        for size, words in ((4, "4 is not a multiple of the patch size 8.*set it to 8"), (20, "20 .* set it to 16")):
            with pytest.raises(ConfigError, match=rf"views\.local_size {words}"):
                recipe.override([f"views.local_size={size}"])
        with pytest.raises(ConfigError, match=r"views\.global_size 50 is not a multiple of the patch size 8"):
            recipe.override(["views.global_size=50", "data.scenes.image_size=50"])
        recipe.override(["views.local_size=15", "views.locals=0"])  # there are none
        sizes = ["views.global_size=32", "views.local_size=20", "data.scenes.image_size=32"]
        named = recipe.override([*TINY[kind], *sizes, "backbone.patch_size=null"])
        with pytest.raises(ValueError, match=r"views\.local_size 20 is not a multiple of the patch size 16"):
            MODULES[kind].build(named, 0, 1)

    @pytest.mark.parametrize("kind", ["dino", "ibot"])
    def test_epochs_that_disagree(self, kind: str) -> None:
        with pytest.raises(ConfigError, match=r"method\.epochs is 7 and train\.epochs is 5; set the first to null"):
            SCENES[kind]().override(["method.epochs=7"])
        assert parts(kind, ["method.epochs=1"]).method.config.epochs == 1

    def test_a_mask_by_its_name_alone(self) -> None:
        with pytest.raises(ConfigError, match=r"method\.mask = 'dpp': it has settings.*say method\.mask\.kind=dpp"):
            mae.scenes_mae().override(["method.mask=dpp"])

    def test_a_mask_that_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"hidden 0\.99 is 16 patches of 16"):
            run(mae.scenes_mae().override([*TINY["mae"], "method.hidden=0.99"]), Verbs(), tmp_path)


class TestValues:
    def test_every_recipe_survives_its_yaml_and_says_its_command(self, tmp_path: Path) -> None:
        found = [each for each in catalog.recipes() if each.module.split(".")[-1] in KINDS]
        assert len(found) == 20
        for entry in found:
            kind = entry.module.split(".")[-1]
            (tmp_path / "recipe.yaml").write_text(resolve(entry.name).yaml())
            assert resolve(str(tmp_path / "recipe.yaml")) == resolve(entry.name)
            assert resolve(entry.name).kind == kind  # type: ignore[attr-defined]
            assert "Command:" in getattr(MODULES[kind], entry.name).__doc__

    def test_table_8(self) -> None:
        for recipe, mask in ((ibot.ibot_small(), "random"), (ibot.ibot_small_dpp(), "dpp")):
            method, views, train = recipe.method, recipe.views, recipe.train
            assert train.learning_rate * 256 / train.global_batch_size == pytest.approx(5e-4)
            assert train.epochs == 100
            assert method.momentum == 0.996
            for targets in (method.targets, method.patch_targets):
                assert (targets.temperature, targets.warmup_epochs) == (0.07, 30)
            assert method.head.prototypes == 8192
            assert method.patch_head is None
            assert (views.locals, views.global_scale, views.local_scale) == (10, (0.25, 1.0), (0.05, 0.25))
            assert (method.ratio.mean, method.ratio.spread, method.ratio.probability) == (0.7, 0.05, 0.5)
            assert method.mask.kind == mask
            assert recipe.backbone.name == "vit_small_patch16_224"
            assert {"mean", "spread", "probability"} == ibot.ibot_small().method.ratio.model_fields_set
            assert (train.global_batch_size, train.warmup_epochs, train.clip_norm) == (1024, 10, 3.0)
            assert (method.weight_decay, method.weight_decay_end) == (0.04, 0.4)

    def test_mae(self) -> None:
        for recipe in (mae.mae_base(), mae.mae_small(), mae.mae_base_dpp()):
            train = recipe.train
            assert train.learning_rate * 256 / train.global_batch_size == pytest.approx(1.5e-4)
            assert (train.epochs, train.warmup_epochs, train.betas) == (800, 40, (0.9, 0.95))
            assert (recipe.method.hidden, recipe.method.weight_decay) == (0.75, 0.05)
            decoder = recipe.method.decoder
            assert (decoder.embed_dim, decoder.depth, decoder.heads) == (512, 8, 16)
            assert recipe.method.normalized_targets
            assert recipe.augment.scale == (0.2, 1.0)

    def test_dino(self) -> None:
        recipe = dino.dino_small()
        assert recipe.train.learning_rate * 256 / recipe.train.global_batch_size == pytest.approx(5e-4)
        assert (recipe.method.weight_decay, recipe.method.weight_decay_end) == (0.04, 0.4)
        assert (recipe.method.head.prototypes, recipe.method.head.fixed_norm) == (65536, False)
        method, views, train = recipe.method, recipe.views, recipe.train
        assert (method.momentum, method.frozen_epochs) == (0.996, 1)
        assert (method.targets.kind, method.targets.temperature) == ("centering", 0.07)
        assert (method.targets.warmup_temperature, method.targets.warmup_epochs) == (0.04, 30)
        assert (views.locals, views.global_scale, views.local_scale) == (10, (0.25, 1.0), (0.05, 0.25))
        assert (train.epochs, train.warmup_epochs, train.min_learning_rate) == (300, 10, 1e-5)
        plain, sar = dino.dino_small_in100(), dino.dino_small_sar()
        assert (plain.train.global_batch_size, plain.train.learning_rate, plain.train.epochs) == (512, 1e-3, 300)
        assert (plain.views.global_size, plain.views.local_size, plain.views.locals) == (224, 96, 10)
        assert (plain.backbone.surgery, plain.method.regularizers) == (None, ())
        assert sar.backbone.surgery == "F"
        assert [each.kind for each in sar.method.regularizers] == ["spatial_entropy"]
        assert (sar.method.regularizers[0].weight.peak, sar.method.regularize) == (0.01, "global")
        assert sar.train == plain.train

    def test_a_run_in_words(self) -> None:
        words = describe(mae.scenes_mae().override(TINY["mae"]), 2)
        assert "64 images, 1 epoch of 4 steps of 16: 4 steps; 24 x 24 px in 16 patches" in words
        assert words.endswith("2 processes")


def test_a_head_may_be_taken_into_one_that_learns_its_lengths(trained: Runs, tmp_path: Path) -> None:
    shutil.copytree(trained["dino"], tmp_path / "copy")
    method = parts("dino", [f"init_from={tmp_path / 'copy'}"], "method.head.fixed_norm=false").method
    assert torch.equal(method.head.norms, torch.ones(12))
    config = HeadConfig(prototypes=12, hidden_dim=16, bottleneck_dim=8)
    plain, tokens = PrototypeHead(config, 24), torch.randn(3, 24)
    load_part(trained["dino"], "projector").fill(plain)  # type: ignore[union-attr]
    torch.testing.assert_close(method.head(tokens), plain(tokens))
