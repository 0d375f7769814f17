"""Data sets: images, signals, tables or token ids in memory, in train, validation and test.

A search compares thousands of networks on the same examples, so a data set is read once and held
whole as tensors: good up to a few GB, no streaming. Splits that a source does not come with are
drawn here, stratified and from a fixed seed, so that every run, worker and machine sees the same
ones. Nothing is downloaded.
"""

from hwnas.data.kinds import Kind
from hwnas.data.preprocessing import Preprocessing, resized
from hwnas.data.sources import load_data
from hwnas.data.splits import DataSet, Split

__all__ = ["DataSet", "Kind", "Preprocessing", "Split", "load_data", "resized"]
