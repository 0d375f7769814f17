import copy
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from predictors import archives, files
from predictors.cost import CostPredictor
from predictors.errors import PredictorFileError
from predictors.files import (
    KINDS,
    VERSION,
    describe_predictor,
    load_predictor,
    predictor_class,
    save_predictor,
)
from predictors.network_latency import NetworkLatencyPredictor
from predictors.transfer import TransferPredictor

FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DAMAGED = "no predictor file of hwnas, or it is damaged"
CHANGED = "was changed after it was saved"


class Malice:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture(scope="module")
def content(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "good.npz"
    save_predictor(fitted, path, measured_between=(1.7e9, 1.8e9))
    return path.read_bytes()


@pytest.fixture(scope="module")
def arrays(content):
    with np.load(io.BytesIO(content)) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "predictor.npz"


def header_of(arrays):
    return json.loads(arrays["header"].tobytes())


def as_array(header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return np.frombuffer(text, dtype=np.uint8)


def signed(arrays):
    """The same arrays, whatever they are, with a digest that fits: by someone who knows how."""
    header = header_of(arrays)
    header.pop("digest", None)
    rest = {name: array for name, array in arrays.items() if name != "header"}
    header["digest"] = files._digest(header, rest)
    return rest | {"header": as_array(header)}


def refuse(path, match=DAMAGED):
    for read in (load_predictor, describe_predictor):
        with pytest.raises(PredictorFileError, match=match) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 500
    return str(caught.value)


@pytest.fixture(scope="module")
def question(random_networks, make_conv, make_elementwise):
    return [*random_networks(5, seed=9), [make_conv(500, 500, 3), make_elementwise(9, 9, "Odd")]]


def load_or_refuse(path, content, question):
    """Anything but finite answers or the package's own error fails the test; so does a warning."""
    path.write_bytes(content)
    try:
        predictor = load_predictor(path)
    except PredictorFileError:
        return
    answer = predictor.predict(question)
    for name in ("latency_ms", "low_ms", "high_ms", "known_share"):
        assert np.isfinite(getattr(answer, name)).all(), name


class TestGoodFiles:
    def test_they_give_the_same_answers(self, fitted, path, question):
        save_predictor(fitted, path)
        again = load_predictor(path)
        save_predictor(again, path)
        answers = [each.predict(question) for each in (fitted, again, load_predictor(path))]
        for name in answers[0].__dataclass_fields__:
            before, first, second = (getattr(answer, name) for answer in answers)
            # Once in a file, bit for bit; before, more digits are there than are kept.
            np.testing.assert_array_equal(second, first, err_msg=name)
            np.testing.assert_allclose(first, before, rtol=1e-6, err_msg=name)
        assert again.target_ == fitted.target_
        assert again.level == fitted.level

    def test_saving_what_was_loaded_gives_the_same_file(self, fitted, path):
        path.write_text("something old")
        save_predictor(fitted, path)
        first = path.read_bytes()
        save_predictor(load_predictor(path), path)
        with np.load(io.BytesIO(first)) as one, np.load(path) as other:
            assert header_of(one) == header_of(other)
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_the_summary_tells_what_was_learned_from(self, path, content, fitted):
        path.write_bytes(content)
        summary = describe_predictor(path)
        assert (summary.kind, summary.format_version) == ("network-latency", VERSION)
        assert summary.target == fitted.target_
        training = summary.training
        assert training.level == fitted.level
        assert training.devices == (fitted.target_.device_name,)
        assert training.measured_between == (1.7e9, 1.8e9)
        assert training.held_out.n == training.n_networks == 30
        assert 0 < training.held_out.mape < 0.5

    def test_the_summary_does_not_build_the_predictor(self, path, content, monkeypatch):
        path.write_bytes(content)
        monkeypatch.setattr(
            NetworkLatencyPredictor, "from_data", lambda *_: pytest.fail("it was built")
        )
        assert describe_predictor(path).kind == "network-latency"

    def test_every_kind_has_a_class_that_can_be_saved(self):
        for kind in KINDS:
            found = predictor_class(kind)
            assert files._kind_of(found) == kind
            assert callable(found.to_data)
            assert callable(found.from_data)

    def test_a_class_without_a_kind_is_a_mistake_of_the_program(self, path):
        with pytest.raises(TypeError, match="no kind of predictor that has files"):
            load_predictor(path, dict)

    def test_of_a_latency_and_a_cost_predictor_either_reads_the_other_s_file(
        self, fitted, path, question
    ):
        for saved in (fitted, CostPredictor(fitted)):
            save_predictor(saved, path)
            for again in (load_predictor(path), load_predictor(path, CostPredictor).latency):
                expected, found = fitted.predict(question), again.predict(question)
                np.testing.assert_allclose(found.high_ms, expected.high_ms, rtol=1e-6)
            summary = describe_predictor(path)
            assert summary.target == fitted.target_
            assert summary.training.held_out.n == 30
        assert summary.kind == "cost"

    def test_another_kind_than_the_one_wanted_is_told(self, path, content):
        path.write_bytes(content)
        with pytest.raises(
            PredictorFileError, match="of kind 'network-latency', and one of kind 'transfer' is"
        ):
            load_predictor(path, TransferPredictor)


def test_what_cannot_be_written_is_said_and_nothing_is_left(fitted, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "p.npz", tmp_path / "folder"):
        with pytest.raises(PredictorFileError, match=f"cannot write {path}"):
            save_predictor(fitted, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_numbers_that_are_not_finite_are_not_saved(fitted, path):
    broken = copy.copy(fitted)
    data, arrays = fitted.to_data()
    name = next(name for name, array in arrays.items() if array.dtype.kind == "f")
    arrays[name] = np.full_like(arrays[name], np.nan)
    broken.to_data = lambda: (data, arrays)
    with pytest.raises(ValueError, match="not finite"):
        save_predictor(broken, path)
    assert not path.exists()


def test_missing_files_and_folders(tmp_path):
    refuse(tmp_path / "missing.npz", "cannot read .*: No such file")
    refuse(tmp_path, "cannot read .*: Is a directory")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04", b'{"format": "hwnas-predictor"}', bytes(5000)]
)
def test_what_is_no_npz(path, content):
    path.write_bytes(content)
    refuse(path)


def test_an_archive_of_something_else(path):
    np.savez(path, a=np.ones(3))
    refuse(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    refuse(path)


def test_every_truncation_is_refused(path, content):
    for n in np.linspace(0, len(content) - 1, 60).astype(int):
        path.write_bytes(content[:n])
        refuse(path)


@FUZZ
@given(data=st.data())
def test_flipped_bytes(path, content, question, data):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    load_or_refuse(path, bytes(damaged), question)


@FUZZ
@given(data=st.data())
def test_flipped_bytes_in_the_directory_of_the_archive(path, content, question, data):
    # Most of a file is compressed arrays; names, sizes and methods stand at its end.
    start = content.index(b"PK\x01\x02")
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(start, len(content) - 1))] = data.draw(st.integers(0, 255))
    load_or_refuse(path, bytes(damaged), question)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values),
    max_leaves=5,
)


def places_in(value):
    """Every dictionary within JSON data that holds something."""
    if isinstance(value, dict):
        if value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from places_in(each)


@FUZZ
@given(data=st.data())
def test_any_value_in_the_header(path, arrays, data):
    header = header_of(arrays)
    place = data.draw(st.sampled_from(list(places_in(header))))
    name, value = data.draw(st.sampled_from(sorted(place))), data.draw(json_values)
    assume(place[name] != value or type(place[name]) is not type(value))
    place[name] = value
    np.savez(path, **arrays | {"header": as_array(header)})
    # The digest finds what nothing else would: that a number is another one.
    refuse(path, f"{DAMAGED}|{CHANGED}|format version|of kind")


@FUZZ
@given(data=st.data())
def test_any_value_in_a_header_whose_digest_fits(path, arrays, question, data):
    header = header_of(arrays)
    place = data.draw(st.sampled_from(list(places_in(header["predictor"]))))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    np.savez(path, **signed(arrays | {"header": as_array(header)}))
    load_or_refuse(path, path.read_bytes(), question)


@FUZZ
@given(data=st.data())
def test_any_value_in_an_array_whose_digest_fits(path, arrays, question, data):
    name = data.draw(st.sampled_from(sorted(arrays.keys() - {"header"})))
    array = arrays[name].copy()
    assume(array.size)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, array.size - 1))
        if array.dtype.kind == "f":
            ends = float(np.finfo(array.dtype).max), float(np.finfo(array.dtype).tiny)
            extreme = [0.0, -1.0, 1e17, *ends, -ends[0], np.nan, np.inf, -np.inf]
        elif array.dtype.kind == "b":
            extreme = [True, False]
        else:
            extreme = [0, 1, 100, int(np.iinfo(array.dtype).min), int(np.iinfo(array.dtype).max)]
        array.flat[at] = data.draw(st.sampled_from(extreme))
    np.savez(path, **arrays | {name: array})
    changed = not np.array_equal(array, arrays[name])
    if changed:
        refuse(path, f"{DAMAGED}|{CHANGED}")
    np.savez(path, **signed(arrays | {name: array}))
    load_or_refuse(path, path.read_bytes(), question)


@FUZZ
@given(data=st.data())
def test_arrays_of_another_shape_or_type_whose_digest_fits(path, arrays, question, data):
    name = data.draw(st.sampled_from(sorted(arrays.keys() - {"header"})))
    array = arrays[name]
    array = data.draw(
        st.sampled_from([
            array[:-1] if array.ndim else array[None],
            array[..., None],
            array.reshape(-1),
            array.astype(np.float32),
            array.astype(np.int16),
            np.zeros((0,)),
            np.zeros(()),
            np.concatenate([array.reshape(-1)] * 2),
        ])
    )  # fmt: skip
    np.savez(path, **signed(arrays | {name: array}))
    load_or_refuse(path, path.read_bytes(), question)


@pytest.mark.parametrize("header", [[], 7, "text", None, {}, {"format": "hwnas-predictor"}])
def test_a_header_of_another_shape(path, arrays, header):
    np.savez(path, **arrays | {"header": as_array(header)})
    refuse(path)


@pytest.mark.parametrize("text", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff{}", b""])
def test_a_header_that_is_no_json(path, arrays, text):
    np.savez(path, **arrays | {"header": as_array(text)})
    refuse(path)


def test_a_header_nested_so_deeply_that_it_can_be_read_but_not_written(path, arrays):
    text = arrays["header"].tobytes()
    for depth in (500, 900, 990):
        deep = text[:-1] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}"
        np.savez(path, **arrays | {"header": as_array(deep)})
        refuse(path, f"{DAMAGED}|{CHANGED}")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000])
def test_numbers_that_json_does_not_have_or_floats_cannot_hold(path, arrays, number):
    text = arrays["header"].tobytes()
    assert text.endswith(b"}")
    np.savez(path, **arrays | {"header": as_array(text[:-1] + b', "odd": ' + number + b"}")})
    refuse(path)


def test_a_header_that_is_too_long_is_not_read(path, arrays, monkeypatch):
    np.savez(path, **arrays)
    monkeypatch.setattr(files, "MAX_HEADER_BYTES", 100)
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("it was read"))
    refuse(path, "header is longer than 100 bytes")


def test_a_file_of_another_format_or_kind(path, arrays):
    np.savez(path, **arrays | {"header": as_array(header_of(arrays) | {"format": "other"})})
    refuse(path, "does not say that it is a predictor")
    np.savez(path, **arrays | {"header": as_array(header_of(arrays) | {"kind": "oracle"})})
    refuse(path, "of kind 'oracle', which this hwnas does not know .*: update hwnas")


def test_a_newer_version_says_to_update_and_an_older_one_to_fit_again(path, arrays):
    for version, advice in ((VERSION + 1, "update hwnas"), (VERSION - 1, "fit it again")):
        np.savez(path, **arrays | {"header": as_array(header_of(arrays) | {"version": version})})
        refuse(path, f"has format version {version}, this hwnas reads {VERSION}: {advice}")


def test_a_missing_or_a_further_array(path, arrays):
    for name in arrays:
        np.savez(path, **{key: value for key, value in arrays.items() if key != name})
        refuse(path, DAMAGED if name == "header" else CHANGED)
    np.savez(path, **arrays, further=np.ones(3))
    refuse(path, CHANGED)


@pytest.mark.parametrize(
    "odd", [{}, {"threads": "x"}, {"threads": -1}, {"runtime": "\x1b[2J"}, [], "text"]
)
def test_a_target_that_is_none_is_not_shown(path, arrays, odd):
    header = header_of(arrays)
    header["target"] = header["target"] | odd if isinstance(odd, dict) and odd else odd
    np.savez(path, **signed(arrays | {"header": as_array(header)}))
    with pytest.raises(PredictorFileError, match=DAMAGED):
        describe_predictor(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("level", 2), ("level", "x"), ("n_networks", -1), ("held_out", {"n": 1}), ("held_out", 3),
     ("measured_between", [1]), ("measured_between", ["a", "b"]), ("devices", [1])],
)  # fmt: skip
def test_a_training_summary_that_is_none_is_not_shown(path, arrays, field, value):
    header = header_of(arrays)
    header["training"][field] = value
    np.savez(path, **signed(arrays | {"header": as_array(header)}))
    with pytest.raises(PredictorFileError, match=DAMAGED):
        describe_predictor(path)


class TestNothingIsExecuted:
    @pytest.fixture
    def victim(self, tmp_path):
        return tmp_path / "executed"

    @pytest.mark.parametrize("name", ["header", "further"])
    def test_objects_in_an_array(self, path, arrays, victim, name):
        np.savez(path, **arrays | {name: np.array([Malice(victim)], dtype=object)})
        refuse(path)
        assert not victim.exists()

    def test_a_plain_pickle(self, path, victim):
        path.write_bytes(pickle.dumps(Malice(victim)))
        refuse(path)
        assert not victim.exists()

    def test_a_pickle_before_or_behind_an_archive(self, path, content, victim):
        # zipfile finds an archive behind other bytes; NumPy looks at the first ones.
        for whole in (pickle.dumps(Malice(victim)) + content, content + pickle.dumps(1)):
            path.write_bytes(whole)
            refuse(path)
        assert not victim.exists()


def test_a_file_that_is_too_large_is_not_opened(path, monkeypatch):
    path.write_bytes(bytes(2000))
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(archives, "read_arrays", lambda *_: pytest.fail("it was opened"))
    refuse(path, "is larger than 1,000 bytes")
