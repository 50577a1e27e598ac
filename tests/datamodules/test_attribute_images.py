import pytest
import torch
from PIL import Image

from datamodules.attribute_images import AttributeImages
from datamodules.attribute_table import read_attributes, read_partition
from interfaces.batch import AttributeBatch, AttributeData, NamesImages

CELEBA = "4\nSmiling Eyeglasses Male\n0.png -1  1 -1\n1.png  1 -1 -1\n2.png  1  1  1\n3.png -1 -1  1\n"
CSV = "file,hair,smiling\n0.png,0,0\n1.png,2,1\n2.png,1,1\n3.png,2,0\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.new("RGB", (18, 16), (i,) * 3).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "list.txt").write_text(CELEBA)
    (tmp_path / "list.csv").write_text(CSV)
    return tmp_path


def data(root, table="list.txt", **changes):
    options = {"size": 16, "batch_size": 2, "num_workers": 0, **changes}
    return AttributeImages(str(root / "photos"), str(root / table), **options)


def ready(module, stage="fit"):
    module.prepare_data()
    module.setup(stage)
    return module


def test_celebas_format_and_csv(root):
    table = read_attributes(root / "list.txt", ["Male", "Smiling"])
    assert (table.attributes, table.categories) == (("Male", "Smiling"), (2, 2))
    assert table.values.tolist() == [[0, 0], [0, 1], [1, 1], [1, 0]]
    table = read_attributes(root / "list.csv")
    assert (table.attributes, table.categories) == (("hair", "smiling"), (3, 2))
    assert table.values.tolist() == [[0, 0], [2, 1], [1, 1], [2, 0]]


def test_a_kaggle_table_is_read_as_the_original_is(root):
    lines = [line.split() for line in CELEBA.splitlines()[1:]]
    text = "\n".join(",".join(line) for line in [["image_id", *lines[0]], *lines[1:]])
    (root / "kaggle.csv").write_text("\ufeff" + text + "\n")
    assert (read_attributes(root / "kaggle.csv").values == read_attributes(root / "list.txt").values).all()


def test_each_image_comes_with_its_attributes(root):
    module = ready(data(root, "list.csv"))
    assert isinstance(module, AttributeData)
    assert isinstance(module, NamesImages)
    values = [[0, 0], [2, 1], [1, 1], [2, 0]]
    seen = set()
    for iteration, batch in enumerate(module.train_dataloader()):
        assert isinstance(batch, AttributeBatch)
        numbers = batch.image[:, 0, 0, 0].tolist()
        assert batch.attributes.tolist() == [values[k] for k in numbers]
        assert [int(name[-5]) for name in module.image_names(iteration, 0)["image"]] == numbers
        seen |= set(numbers)
    (kept,) = list(module.val_dataloader())
    assert set(kept.image[:, 0, 0, 0].tolist()) | seen == {0, 1, 2, 3}
    assert len(seen) == 3
    assert module.on_after_batch_transfer(batch, 0).attributes.dtype == torch.int64


def test_a_partition_decides_what_is_kept_out(root):
    (root / "part.txt").write_text("0.png 0\n1.png 1\n2.png 0\n3.png 2\n")
    module = ready(data(root, partition=str(root / "part.txt")))
    assert {k for batch in module.train_dataloader() for k in batch.image[:, 0, 0, 0].tolist()} == {0, 2}
    assert [k for batch in module.test_dataloader() for k in batch.image[:, 0, 0, 0].tolist()] == [1]
    (root / "part.csv").write_text("image_id,partition\n0.png,0\n1.png,1\n")
    assert read_partition(root / "part.csv") == {"0.png": 0, "1.png": 1}
    (root / "part.txt").write_text("0.png 0\n1.png 0\n")
    with pytest.raises(ValueError, match="leaves no image for validation"):
        data(root, partition=str(root / "part.txt"))


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("a.csv", "file,Smiling\n0.png,1\n1.png\n", "Line 3 of .*a.csv has 0 values for 1 attributes"),
        ("a.csv", "file,Smiling\n0.png,yes\n1.png,no\n", "Line 2 of .* holds 'yes': values are -1 and 1"),
        ("a.csv", "file,Smiling\n0.png,1\n1.png,1\n", "attribute Smiling has one value only"),
        ("a.csv", "file,Smiling\n0.png,0\n1.png,0\n", "attribute Smiling has one value only"),
        ("a.csv", "", "is empty: its first line must name the columns"),
        ("a.txt", "file,Smiling\n0.png,1\n", "not in CelebA's format .* name it .csv if it is one"),
        ("a.txt", CELEBA.replace("1.png", "9.png"), r"names .*9\.png, which does not exist \(1 of its 4"),
    ],
)
def test_a_table_that_does_not_fit_is_named(root, table, text, message):
    (root / table).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data(root, table)


def test_unknown_attributes_and_files_are_answered_with_the_nearest(root):
    with pytest.raises(ValueError, match="no attribute Smile; did you mean Smiling?"):
        data(root, attributes=["Smile"])
    with pytest.raises(FileNotFoundError, match="no table of attributes .*gone.txt"):
        data(root, "gone.txt")
    with pytest.raises(FileNotFoundError, match="must hold the images that the table names"):
        AttributeImages(str(root / "gone"), str(root / "list.txt"))
