import io
import json
import os
import pickle
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictors import files
from predictors.errors import PredictorFileError
from predictors.files import KIND, VERSION, load_predictor, save_predictor

FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Malice:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture(scope="module")
def content(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "good.npz"
    save_predictor(fitted, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def arrays(content):
    with np.load(io.BytesIO(content)) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "predictor.npz"


def with_header(arrays, change):
    """The good file's arrays with another header."""
    header = json.loads(arrays["header"].tobytes())
    text = json.dumps(change(header)).encode()
    return arrays | {"header": np.frombuffer(text, dtype=np.uint8)}


def refuse(path, match="no predictor file of hwnas, or it is damaged"):
    with pytest.raises(PredictorFileError, match=match) as caught:
        load_predictor(path)
    assert str(path) in str(caught.value)


def load_or_refuse(path, content):
    """Anything but the package's own error fails the test; so does a warning."""
    path.write_bytes(content)
    with suppress(PredictorFileError):
        load_predictor(path)


def test_the_file_gives_the_same_answers_bit_for_bit(fitted, path, random_networks, make_conv):
    save_predictor(fitted, path)
    again = load_predictor(path)
    question = [*random_networks(5, seed=9), [make_conv(500, 500, 3)]]
    one, other = fitted.predict(question), again.predict(question)
    for name in one.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert again.target_ == fitted.target_
    assert again.level == fitted.level
    assert np.array_equal(again.held_out_, fitted.held_out_)


def test_saving_again_replaces_the_file_and_leaves_nothing_beside_it(fitted, path):
    path.write_text("something old")
    save_predictor(fitted, path)
    first = path.read_bytes()
    save_predictor(load_predictor(path), path)
    assert len(path.read_bytes()) == len(first)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_cannot_be_written_is_said_and_nothing_is_left(fitted, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "p.npz", tmp_path / "folder"):
        with pytest.raises(PredictorFileError, match=f"cannot write {path}"):
            save_predictor(fitted, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_missing_files_and_folders(tmp_path):
    refuse(tmp_path / "missing.npz", "cannot read .*: No such file")
    refuse(tmp_path, "cannot read .*: Is a directory")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04", b'{"format": "hwnas-predictor"}', bytes(5000)]
)
def test_what_is_no_npz(path, content):
    path.write_bytes(content)
    refuse(path)


def test_a_lone_array_is_no_predictor(path):
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    refuse(path)


def test_every_truncation_is_refused(path, content):
    for n in np.linspace(0, len(content) - 1, 60).astype(int):
        path.write_bytes(content[:n])
        refuse(path)


@FUZZ
@given(data=st.data())
def test_flipped_bytes(path, content, data):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    load_or_refuse(path, bytes(damaged))


@FUZZ
@given(data=st.data())
def test_flipped_bytes_in_the_directory_of_the_archive(path, content, data):
    # Most of a file is compressed arrays; names, sizes and methods stand at its end.
    start = content.index(b"PK\x01\x02")
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(start, len(content) - 1))] = data.draw(st.integers(0, 255))
    load_or_refuse(path, bytes(damaged))


@FUZZ
@given(data=st.data())
def test_damage_that_the_checksums_do_not_show(path, arrays, data):
    name = data.draw(st.sampled_from(sorted(arrays)))
    member = io.BytesIO()
    np.save(member, arrays[name])
    damaged = bytearray(member.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(damaged) - 1, 400)))
        damaged[at] = data.draw(st.integers(0, 255))
    content = io.BytesIO()
    np.savez(content, **{key: value for key, value in arrays.items() if key != name})
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(f"{name}.npy", bytes(damaged))
    load_or_refuse(path, content.getvalue())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values),
    max_leaves=5,
)


@FUZZ
@given(data=st.data())
def test_any_value_in_the_header(path, arrays, data):
    value = data.draw(json_values)

    def change(header):
        place = data.draw(
            st.sampled_from([header, header["predictor"], header["predictor"]["kernels"]])
        )
        place[data.draw(st.sampled_from(sorted(place)))] = value
        return header

    np.savez(path, **with_header(arrays, change))
    load_or_refuse(path, path.read_bytes())


@pytest.mark.parametrize("name", ["threads", "coef", "bounds", "measured_ms", "level", "seed"])
@pytest.mark.parametrize(
    "value",
    [float("inf"), float("nan"), None, "x", [], {}, pytest.param(10**400, id="huge"), -1],
)
def test_odd_numbers_in_the_header(path, arrays, name, value):
    def change(header):
        predictor = header["predictor"]
        for place in (predictor, predictor["target"], predictor["kernels"]):
            if name in place:
                place[name] = value
        return header

    np.savez(path, **with_header(arrays, change))
    load_or_refuse(path, path.read_bytes())


@pytest.mark.parametrize("header", [[], 7, "text", None, {}, {"format": "hwnas-predictor"}])
def test_a_header_of_another_shape(path, arrays, header):
    np.savez(path, **with_header(arrays, lambda _: header))
    refuse(path)


def test_a_header_nested_too_deeply(path, arrays):
    text = np.frombuffer(b"[" * 200_000, dtype=np.uint8)
    np.savez(path, **arrays | {"header": text})
    refuse(path)


@pytest.mark.parametrize("field", ["format", "kind"])
def test_a_file_of_another_kind(path, arrays, field):
    np.savez(path, **with_header(arrays, lambda header: header | {field: f"not {KIND}"}))
    refuse(path, "of another kind")


def test_a_newer_version_says_to_update(path, arrays):
    np.savez(path, **with_header(arrays, lambda header: header | {"version": VERSION + 1}))
    refuse(
        path, f"has format version {VERSION + 1}, this hwnas reads up to {VERSION}: update hwnas"
    )


@pytest.mark.parametrize("name", ["header", "held_out", "rooflines", "trees_left"])
def test_a_missing_array(path, arrays, name):
    np.savez(path, **{key: value for key, value in arrays.items() if key != name})
    refuse(path)


class TestNothingIsExecuted:
    @pytest.fixture
    def victim(self, tmp_path):
        return tmp_path / "executed"

    @pytest.mark.parametrize("name", ["header", "held_out"])
    def test_objects_in_an_array(self, path, arrays, victim, name):
        np.savez(path, **arrays | {name: np.array([Malice(victim)], dtype=object)})
        refuse(path)
        assert not victim.exists()

    def test_a_plain_pickle(self, path, victim):
        path.write_bytes(pickle.dumps(Malice(victim)))
        refuse(path)
        assert not victim.exists()

    def test_a_pickle_before_an_archive(self, path, content, victim):
        # zipfile finds an archive behind other bytes; NumPy looks at the first ones.
        path.write_bytes(pickle.dumps(Malice(victim)) + content)
        refuse(path)
        assert not victim.exists()


class TestTooLarge:
    def test_an_archive_that_unpacks_to_more_than_it_may_is_not_unpacked(
        self, path, arrays, monkeypatch
    ):
        np.savez_compressed(path, **arrays | {"bomb": np.zeros(2**22, dtype=np.uint8)})
        assert path.stat().st_size < 2**20
        monkeypatch.setattr(files, "MAX_BYTES", 2**20)
        monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was opened"))
        refuse(path, "unpacks to more than")

    def test_a_large_file_is_not_opened(self, path, monkeypatch):
        path.write_bytes(bytes(2000))
        monkeypatch.setattr(files, "MAX_BYTES", 1000)
        refuse(path, "is larger than")

    def test_an_array_that_says_it_is_larger_than_the_file(self, path, arrays):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f8", "fortran_order": False, "shape": (2**60,)}
        )
        np.savez(path, **{key: value for key, value in arrays.items() if key != "held_out"})
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("held_out.npy", header.getvalue())
        refuse(path)
