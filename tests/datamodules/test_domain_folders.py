import pytest
import torch
from PIL import Image

from datamodules.domain_folders import DomainImages, kept_out_of
from interfaces.batch import DomainBatch, DomainData, EachDomainBatch, ImageBatch, NamesImages

COUNTS = {"paint": 6, "photo": 9, "sketch": 3}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))


def fill(folder, count, level):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (18, 16), (level + i,) * 3).save(folder / f"{i}.png")


@pytest.fixture
def root(tmp_path):
    """Images whose single grey level tells which they are."""
    for number, (name, count) in enumerate(COUNTS.items()):
        fill(tmp_path / "photos" / name, count, 20 * number)
    return tmp_path / "photos"


def data(root=None, **changes):
    return DomainImages(
        None if root is None else str(root), **{"size": 16, "batch_size": 2, "num_workers": 0, **changes}
    )


def ready(module, stage="fit"):
    module.prepare_data()
    module.setup(stage)
    return module


def levels(images):
    return images[..., 0, 0, 0].flatten().tolist()


def test_domains_are_the_folders_and_a_share_of_each_is_kept_out(root):
    module = ready(data(root))
    assert isinstance(module, DomainData)
    assert (module.domains, module.true_pairs) == (("paint", "photo", "sketch"), False)
    batches = list(module.train_dataloader())
    assert len(batches) == 4
    assert all(
        isinstance(batch, DomainBatch) and sorted(batch.domain.tolist()) == [0, 0, 1, 1, 2, 2] for batch in batches
    )
    (kept,) = list(module.val_dataloader())
    assert isinstance(kept, EachDomainBatch)
    assert kept.images.shape == (1, 3, 3, 16, 16)
    for k, count in enumerate(COUNTS.values()):
        trained = {level for batch in batches for level in levels(batch.image[batch.domain == k])}
        (out,) = levels(kept.images[:, k])
        assert trained == {20 * k + i for i in range(count)} - {out}
    assert module.on_after_batch_transfer(batches[0], 0).image.max() < 0


def test_training_and_test_folders_are_used_where_they_are(root, tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for k, name in enumerate(("a", "b")):
            fill(tmp_path / "split" / split / name, count + k, 100 * (split == "test") + 10 * k)
    module = ready(data(tmp_path / "split"))
    assert module.evaluation_sizes == (2, 3)
    shown = (
        [levels(batch.images[:, 0]) for batch in module.test_dataloader()],
        [levels(batch.images[:, 1]) for batch in module.test_dataloader()],
    )
    assert shown == ([[100, 101], [100]], [[110, 111], [112]])  # the smaller starts again
    module = ready(data(tmp_path / "split"), "predict")
    seen = [[level for batch in loader for level in levels(batch.image)] for loader in module.predict_dataloader()]
    assert seen == [[100, 101], [110, 111, 112]]
    assert isinstance(next(iter(module.predict_dataloader()[0])), ImageBatch)


def test_a_list_of_folders_names_the_domains_and_their_order(root):
    folders = [str(root / name) for name in ("sketch", "photo")]
    assert data(folders=folders).domains == ("sketch", "photo")
    assert data(folders=folders, domains=["line", "colour"]).domains == ("line", "colour")
    assert data(root, domains=["sketch", "paint"]).domains == ("sketch", "paint")
    module = ready(data(folders=folders, test_folders=folders[::-1]))
    assert module.evaluation_sizes == (9, 3)


@pytest.mark.parametrize("n", range(2, 9))
def test_any_number_of_domains(tmp_path, n):
    for k in range(n):
        fill(tmp_path / "many" / f"d{k}", 3 + k, 10 * k)
    module = ready(data(tmp_path / "many", batch_size=1))
    batch = next(iter(module.train_dataloader()))
    assert sorted(batch.domain.tolist()) == list(range(n))
    assert next(iter(module.val_dataloader())).images.shape[:2] == (1, n)


def test_names_and_resume_follow_the_sampler(root):
    module = ready(data(root, sampling="uniform"))
    assert isinstance(module, NamesImages)
    for iteration, batch in enumerate(module.train_dataloader()):
        names = module.image_names(iteration, 0)["image"]
        expected = [20 * module.domains.index(name.split("/")[-2]) + int(name.split("/")[-1][:-4]) for name in names]
        assert levels(batch.image) == expected


def test_kept_out_images_are_a_function_of_names(root):
    files = sorted((root / "photo").iterdir())
    assert kept_out_of(files, 0.3) == kept_out_of(files[::-1], 0.3)
    assert len(kept_out_of(files, 0.3)) == 3
    assert len(kept_out_of(files[:2], 0.9)) == 1


def test_the_fingerprint_of_an_evaluation_sees_its_pixels(root):
    before = ready(data(root)).fingerprint("test")
    kept = kept_out_of(sorted((root / "sketch").iterdir()), 0.1)[0]
    Image.new("RGB", (18, 16), (99,) * 3).save(kept)
    assert ready(data(root)).fingerprint("test") != before


def test_what_does_not_fit_is_said_in_one_sentence(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone: .*gone must hold one folder of images a domain"):
        data(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"photos has no folder oil, it holds paint, photo, sketch"):
        data(root, domains=["oil", "photo"])
    with pytest.raises(FileNotFoundError, match=r"photo holds fewer than two folders, it holds no folder at all"):
        data(root / "photo")
    with pytest.raises(ValueError, match="either `root` or `folders`"):
        data()
    with pytest.raises(ValueError, match=r"folders has 2 entries, data.domains \['x'\]"):
        data(folders=["a", "b"], domains=["x"])
    with pytest.raises(ValueError, match="held_out is 1.5"):
        data(root, held_out=1.5)
    (root / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="train holds fewer than two folders"):
        data(root)
    fill(root / "train" / "x", 2, 0)
    fill(root / "train" / "y", 2, 0)
    with pytest.raises(FileNotFoundError, match="holds train/, but neither test/ nor val/"):
        data(root)
    (root / "test" / "x").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no folder .*test/y: move some images of .*train/y there"):
        data(root)


def test_broken_and_single_images_are_named_before_training(root):
    (root / "sketch" / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"Cannot read image .*sketch/1\.png"):
        data(root).prepare_data()
    for name in ("1.png", "2.png"):
        (root / "sketch" / name).unlink()
    with pytest.raises(ValueError, match=r"sketch holds a single image"):
        data(root).setup("fit")


def test_ranks_share_no_image(root, monkeypatch):
    import datamodules.domain_folders as folders

    seen = []
    for rank in (0, 1):
        monkeypatch.setattr(folders, "placement", lambda _, rank=rank: (rank, 2))
        module = ready(data(root, batch_size=1))
        seen.append([level for batch in module.train_dataloader() for level in levels(batch.image[batch.domain == 1])])
        with pytest.raises(ValueError, match="1 image\\(s\\) for 2 processes"):
            module.val_dataloader()
    assert not set(seen[0]) & set(seen[1])
    assert torch.tensor(seen).numel() == 8
