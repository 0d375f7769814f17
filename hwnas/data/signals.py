"""Generated signals: `melodies`, three notes in noise, a stand-in for short spoken commands."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from hwnas.data.splits import DataSet, Split, three_splits

SEED = 0
N_SIGNALS, LENGTH = 4_000, 512
N_NOTES = 3
LOW = (0.02, 0.04)  # cycles a sample of a low note
OCTAVES = (1.0, 1.5)  # by which a high note is above it
SHARE = (0.6, 0.9)  # of the signal that sounds
HARMONIC = (0.0, 0.5)  # amplitude of the second one, that of the first is 1
NOISE = (0.5, 1.5)  # deviation of the white noise


def load_melodies() -> DataSet:
    """Three notes, each low or high, in noise: which of the eight melodies it is.

    4,000 signals of one channel and 512 samples, generated from a fixed seed. Pitch, interval,
    tempo, onset, timbre, phase and noise are random; a spectrum says how many notes are high, but
    not which.
    """
    rng = np.random.default_rng(SEED)
    melodies = np.array(list(product((0, 1), repeat=N_NOTES)))  # (8, 3)
    labels = np.arange(N_SIGNALS) % len(melodies)
    signals = np.stack([_signal(rng, melodies[label]) for label in labels])[:, None]
    whole = Split(torch.from_numpy(signals.astype(np.float32)), torch.from_numpy(labels))
    names = tuple(" ".join("high" if note else "low" for note in melody) for melody in melodies)
    return DataSet("melodies", *three_splits({"train": whole}), names)


def _signal(rng: np.random.Generator, melody: NDArray[np.int64]) -> NDArray[np.float64]:
    """One signal, `(512,)`."""
    n_sounding = round(LENGTH * rng.uniform(*SHARE))
    notes = melody[np.linspace(0, N_NOTES, n_sounding, endpoint=False).astype(np.int64)]
    low, octaves = np.exp(rng.uniform(*np.log(LOW))), rng.uniform(*OCTAVES)
    phase = 2 * np.pi * (rng.uniform() + np.cumsum(low * 2 ** (octaves * notes)))
    tone = np.sin(phase) + rng.uniform(*HARMONIC) * np.sin(2 * phase)
    signal = rng.normal(scale=rng.uniform(*NOISE), size=LENGTH)
    onset = rng.integers(LENGTH - n_sounding + 1)
    signal[onset : onset + n_sounding] += tone
    return signal
