"""Samples and batches."""

from .datasets import Dataset, open_dataset
from .loaders import eval_batches, normalize, train_batches
from .transforms import ClassifyTransform, PretrainTransform, SegmentTransform

__all__ = [
    "ClassifyTransform",
    "Dataset",
    "PretrainTransform",
    "SegmentTransform",
    "eval_batches",
    "normalize",
    "open_dataset",
    "train_batches",
]
