"""Images: generated scenes, folders, VOC, COCO, COCO-Stuff, ADE20K, Cityscapes, CUB, and a loader that resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_HOMES = {
    "SPLITS": "folders",
    "Ade20k": "ade20k",
    "Cifar": "cifar",
    "Cityscapes": "cityscapes",
    "CocoInstances": "coco",
    "CocoSemantic": "coco_semantic",
    "CocoStuff": "cocostuff",
    "Cub": "cub",
    "EvalTransform": "transforms",
    "EvalTransformConfig": "transforms",
    "Finding": "finding",
    "ImageFolder": "folders",
    "Loader": "loader",
    "LoaderConfig": "loader",
    "MultiCrop": "views",
    "MultiCropConfig": "views",
    "MultiLabelFolder": "multi_label",
    "ObjectLabels": "multi_label",
    "SyntheticScenes": "synthetic",
    "TooManyUnreadable": "loader",
    "TrainTransform": "transforms",
    "TrainTransformConfig": "transforms",
    "TwoViews": "two_views",
    "TwoViewsConfig": "two_views",
    "UnreadableImage": "images",
    "View": "views",
    "VocSegmentation": "voc",
    "WorkerCrashed": "loader",
    "Wsol": "wsol",
    "build_eval_transform": "transforms",
    "build_train_transform": "transforms",
    "inspect_folder": "inspect",
    "is_multi_label": "multi_label",
    "open_image": "images",
    "open_mask": "images",
    "ordered_batches": "loader",
}

__all__ = [
    "SPLITS",
    "Ade20k",
    "Cifar",
    "Cityscapes",
    "CocoInstances",
    "CocoSemantic",
    "CocoStuff",
    "Cub",
    "EvalTransform",
    "EvalTransformConfig",
    "Finding",
    "ImageFolder",
    "Loader",
    "LoaderConfig",
    "MultiCrop",
    "MultiCropConfig",
    "MultiLabelFolder",
    "ObjectLabels",
    "SyntheticScenes",
    "TooManyUnreadable",
    "TrainTransform",
    "TrainTransformConfig",
    "TwoViews",
    "TwoViewsConfig",
    "UnreadableImage",
    "View",
    "VocSegmentation",
    "WorkerCrashed",
    "Wsol",
    "build_eval_transform",
    "build_train_transform",
    "inspect_folder",
    "is_multi_label",
    "open_image",
    "open_mask",
    "ordered_batches",
]

if TYPE_CHECKING:
    from vitrail.data.ade20k import Ade20k
    from vitrail.data.cifar import Cifar
    from vitrail.data.cityscapes import Cityscapes
    from vitrail.data.coco import CocoInstances
    from vitrail.data.coco_semantic import CocoSemantic
    from vitrail.data.cocostuff import CocoStuff
    from vitrail.data.cub import Cub
    from vitrail.data.finding import Finding
    from vitrail.data.folders import SPLITS, ImageFolder
    from vitrail.data.images import UnreadableImage, open_image, open_mask
    from vitrail.data.inspect import inspect_folder
    from vitrail.data.loader import Loader, LoaderConfig, TooManyUnreadable, WorkerCrashed, ordered_batches
    from vitrail.data.multi_label import MultiLabelFolder, ObjectLabels, is_multi_label
    from vitrail.data.synthetic import SyntheticScenes
    from vitrail.data.transforms import (
        EvalTransform,
        EvalTransformConfig,
        TrainTransform,
        TrainTransformConfig,
        build_eval_transform,
        build_train_transform,
    )
    from vitrail.data.two_views import TwoViews, TwoViewsConfig
    from vitrail.data.views import MultiCrop, MultiCropConfig, View
    from vitrail.data.voc import VocSegmentation
    from vitrail.data.wsol import Wsol


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"vitrail.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vitrail.data' has no attribute {name!r}")
