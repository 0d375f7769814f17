import numpy as np

from hwnas.data import load_data


def test_melodies_of_as_many_high_notes_have_one_spectrum_but_another_order():
    data = load_data("melodies")
    signals, labels = data.train.inputs[:, 0].numpy(), data.train.labels.numpy()
    names = [data.class_names[i] for i in (1, 2, 4)]
    assert names == ["low low high", "low high low", "high low low"]

    def mean_spectra(part):
        spectra = np.abs(np.fft.rfft(signals[:, part], axis=1))
        return np.stack([spectra[labels == label].mean(axis=0) for label in (1, 2, 4)])

    def spread(spectra):
        return np.abs(spectra - spectra.mean(axis=0)).sum() / spectra.sum()

    assert spread(mean_spectra(slice(None))) < 0.03
    assert spread(mean_spectra(slice(50, 150))) > 0.05
