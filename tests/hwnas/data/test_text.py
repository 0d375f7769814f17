import pytest
import torch

from hwnas.data import load_data
from hwnas.data.text import encode, length_of, vocabulary_of, words_of
from hwnas.errors import DataError

GREETING = {"hello": "Hello there, {i}!", "bye": "So long, {i}."}


def write_texts(folder, n=20):
    for name, text in GREETING.items():
        (folder / name).mkdir(parents=True)
        for i in range(n):
            (folder / name / f"{i}.txt").write_text(text.format(i=i % 3))
    return f"text:{folder}"


def split(*texts):
    return [words_of(text) for text in texts]


def test_words_are_ids_by_falling_frequency_after_padding_and_unknown():
    words = vocabulary_of(split("b a", "b A", "c b", "once"))
    assert words == ("b", "a")  # three times, twice; "c" and "once" were seen once
    assert encode(split("a b zebra", "b", ""), words, 4).tolist() == [
        [3, 2, 1, 0],
        [2, 0, 0, 0],
        [0] * 4,
    ]
    assert encode(split("a b a b a b"), words, 4).tolist() == [[3, 2, 3, 2]]


def test_punctuation_is_words_and_case_is_none():
    assert words_of("def F(x):\n  return x_1") == ["def", "f", "(", "x", ")", ":", "return", "x_1"]
    assert words_of("Grüße!") == ["grüße", "!"]


def test_the_length_covers_nine_tenths_of_the_texts():
    assert length_of([["a"] * 10] * 95 + [["a"] * 1000] * 5) == 16
    assert length_of([["a"]]) == 8
    assert length_of([["a"] * 1000] * 10) == 128


@pytest.mark.parametrize("form", ["folder", "folders", "csv"])
def test_texts_come_from_folders_and_from_csv_files(tmp_path, form):
    if form == "folder":
        data = load_data(write_texts(tmp_path / "t"))
    elif form == "folders":
        for part in ("train", "test"):
            write_texts(tmp_path / "t" / part)
        data = load_data(f"text:{tmp_path / 't'}")
    else:
        rows = [
            f'"{text.format(i=i % 3)}",{name}' for i in range(20) for name, text in GREETING.items()
        ]
        (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(rows))
        data = load_data(f"text:{tmp_path / 't.csv'}")
    assert (data.kind, data.input_shape, data.class_names) == ("tokens", (8,), ("bye", "hello"))
    assert set(data.words) == {"hello", "there", ",", "!", "so", "long", ".", "0", "1", "2"}
    assert data.vocabulary == 12
    first = torch.tensor([data.words.index(word) + 2 for word in ("so", "hello")])
    for split in (data.train, data.validation, data.test):
        assert torch.equal(split.inputs[:, 0], first[split.labels])


def test_the_vocabulary_is_of_the_training_texts_alone(tmp_path):
    write_texts(tmp_path / "train")
    write_texts(tmp_path / "test")
    for i in range(5):
        (tmp_path / "test" / "bye" / f"{i}.txt").write_text("farewell farewell")
    data = load_data(f"text:{tmp_path}")
    assert "farewell" not in data.words
    assert (data.test.inputs[:, :2] == 1).all(dim=1).sum() == 5


def test_functions_of_the_standard_library_are_real_text():
    data = load_data("python-functions")
    assert data.class_names == (
        "asyncio", "email", "importlib", "multiprocessing", "unittest", "xml"
    )  # fmt: skip
    assert len(data.train) > 2000 and 1000 < len(data.words) <= 4094
    assert {"def", "self", "return"} <= set(data.words[:20])
    counts = torch.bincount(data.train.labels)
    assert counts.min() > 0.05 * counts.sum()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "bye" / "0.txt").write_bytes(b"\xff\xfe"), "cannot be read as UTF-8"),
        (lambda f: (f / "train").mkdir() or write_texts(f / "train" / "x"), "both train and test"),
        (lambda f: (f / "rest").mkdir(), "needs an example in train.*none for class rest"),
    ],
)
def test_texts_that_cannot_be_used_say_why(tmp_path, break_it, message):
    write_texts(tmp_path / "t")
    break_it(tmp_path / "t")
    with pytest.raises(DataError, match=message):
        load_data(f"text:{tmp_path / 't'}")


def test_where_there_are_no_texts_it_says_what_was_expected(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"has no texts: expected CLASS/\*\.txt there$"):
        load_data(f"text:{tmp_path}")
    with pytest.raises(DataError, match="no folder .*missing"):
        load_data(f"text:{tmp_path / 'missing'}")
    (tmp_path / "t.csv").write_text("words,label\nhi,0\n")
    with pytest.raises(DataError, match="no column 'text'; there are words, label"):
        load_data(f"text:{tmp_path / 't.csv'}")
