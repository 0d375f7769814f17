import pytest
import torch

from hwnas.data import load_data
from hwnas.errors import DataError


def write_csv(path, n=20, *, header="width,height,label", row="{i},{half},{kind}"):
    lines = [header]
    lines += [row.format(i=i, half=i / 2, kind="cat" if i % 2 else "dog") for i in range(n)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return f"csv:{path}"


def test_a_csv_file_is_split_and_its_classes_are_named(tmp_path):
    data = load_data(write_csv(tmp_path / "t.csv"))
    assert (data.kind, data.input_shape, data.class_names) == ("table", (2,), ("cat", "dog"))
    assert [len(s) for s in (data.train, data.validation, data.test)] == [14, 3, 3]
    for split in (data.train, data.validation, data.test):
        assert torch.equal(split.inputs[:, 0] / 2, split.inputs[:, 1])
        assert torch.equal((split.inputs[:, 0] + 1) % 2, split.labels.float())  # odd ones are cats


@pytest.mark.parametrize(
    ("header", "row"),
    [("label,a,b", "{kind},{i},{half}"), ("a,b,species", "{i},{half},{kind}")],
)
def test_the_class_is_the_column_label_wherever_or_else_the_last(tmp_path, header, row):
    data = load_data(write_csv(tmp_path / "t.csv", header=header, row=row))
    assert data.class_names == ("cat", "dog") and data.input_shape == (2,)


def test_a_folder_of_csv_files_keeps_its_splits_and_the_order_of_columns(tmp_path):
    write_csv(tmp_path / "d" / "train.csv", 20)
    write_csv(tmp_path / "d" / "test.csv", 6, header="height,label,width", row="{half},{kind},{i}")
    data = load_data(f"csv:{tmp_path / 'd'}")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [17, 3, 6]
    assert data.test.inputs[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert load_data("csv", path=tmp_path / "d").fingerprint == data.fingerprint


def test_numbers_may_be_truth_values_and_classes_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,label\n" + "".join(f"{i},{i % 3 > 0},{9 + i % 2}.0\n" for i in range(24)))
    data = load_data(f"csv:{path}")
    assert data.class_names == ("9", "10")
    assert data.train.inputs[:, 1].unique().tolist() == [0.0, 1.0]


def test_a_small_test_file_may_have_one_row_of_each_class(tmp_path):
    header, folder = "a,label\n", tmp_path / "d"
    folder.mkdir()
    rows = [f"{i},{'xyz'[i % 3]}\n" for i in range(30)]
    (folder / "train.csv").write_text(header + "".join(rows))
    (folder / "test.csv").write_text(header + "".join(rows[:3]))
    assert len(load_data(f"csv:{folder}").test) == 3


def test_words_for_nothing_may_be_classes(tmp_path):
    path = tmp_path / "t.csv"
    classes = ("None", "NA", "cat")
    path.write_text("a,label\n" + "".join(f"{i},{classes[i % 3]}\n" for i in range(30)))
    assert set(load_data(f"csv:{path}").class_names) == {"None", "NA", "cat"}
    path.write_text(path.read_text() + "30,\n")
    with pytest.raises(DataError, match="'label' is empty in row 30"):
        load_data(f"csv:{path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no CSV file with a header"),
        ("a,label\n", "has a header but no rows"),
        ("label\n1\n2\n", "has one column only"),
        ("a,label\nred,0\nblue,1\n", "column 'a' holds 'red', which is no number"),
        ("a,label\n1,0\n,1\n", "column 'a' is empty in row 1; fill it in"),
        ("a,label\n1,0\n2,\n", "'label' is empty in row 1"),
        ("a,price\n1,0.5\n2,1.5\n", "'price' holds 2 distinct values in 2 rows, which are no cl"),
        ("a,id\n1,0\n2,1\n3,2\n4,3\n", "'id' holds 4 distinct values in 4 rows"),
        ("a,label\n1,0\n2,1\n", "2 examples are too few"),
    ],
)
def test_a_csv_file_that_cannot_be_used_says_why(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_data(f"csv:{path}")
    assert "image" not in str(caught.value)


def test_csv_files_that_do_not_belong_together_say_why(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    with pytest.raises(DataError, match="d has no CSV files, but both train and test are needed"):
        load_data(f"csv:{folder}")
    write_csv(folder / "train.csv")
    with pytest.raises(DataError, match="CSV files in train, but both train and test are needed"):
        load_data(f"csv:{folder}")
    write_csv(folder / "test.csv", header="width,depth,label")
    with pytest.raises(DataError, match="test: no column 'height'; there are width, depth, label"):
        load_data(f"csv:{folder}")
    write_csv(folder / "test.csv", row="{i},{i},{kind}s")
    with pytest.raises(DataError, match="test has classes that train has not: cats, dogs"):
        load_data(f"csv:{folder}")
    with pytest.raises(DataError, match="cannot read .*missing.csv: No such file"):
        load_data(f"csv:{tmp_path / 'missing.csv'}")
