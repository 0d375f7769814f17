"""Data sets: images and labels in memory, split into train, validation and test.

A search compares thousands of networks on the same images, so a data set is decoded once and held
whole as `uint8` (or `float32`) tensors: good up to a few GB, no streaming. Splits that a source
does not come with are drawn here, stratified and from a fixed seed, so that every run, worker and
machine sees the same ones. Nothing is downloaded.
"""

from hwnas.data.sources import load_data
from hwnas.data.splits import DataSet, Split, normalise, resize, stratified_order

__all__ = ["DataSet", "Split", "load_data", "normalise", "resize", "stratified_order"]
