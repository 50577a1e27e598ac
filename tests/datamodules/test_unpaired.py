import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from datamodules.unpaired import UnpairedImages
from interfaces.batch import DomainData, ImageBatch, NamesImages, UnpairedBatch

COUNTS = {"trainA": 5, "trainB": 3, "testA": 2, "testB": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """Images whose single grey level tells which they are."""
    root = tmp_path / "photos"
    for number, (name, count) in enumerate(COUNTS.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (20 + i, 16), (10 * number + i,) * 3).save(root / name / f"{i}.png")
    return root


def data(root=None, **changes):
    return UnpairedImages(root, **{"size": 16, "batch_size": 2, "num_workers": 0, **changes})


def ready(module, stage="fit"):
    module.prepare_data()
    module.setup(stage)
    return module


def levels(images):
    return images[:, 0, 0, 0].tolist()


def test_training_shows_the_whole_larger_domain(root):
    module = ready(data(str(root)))
    assert isinstance(module, DomainData)
    assert (module.true_pairs, module.domains, module.image_shape) == (False, ("a", "b"), (3, 16, 16))
    batches = list(module.train_dataloader())
    assert len(batches) == len(module.train_dataloader()) == 3
    assert all(isinstance(batch, UnpairedBatch) and batch.a.shape == (2, 3, 16, 16) for batch in batches)
    assert batches[0].a.dtype == torch.uint8
    assert {level for batch in batches for level in levels(batch.a)} == {0, 1, 2, 3, 4}
    assert {level for batch in batches for level in levels(batch.b)} == {10, 11, 12}
    scaled = module.on_after_batch_transfer(batches[0], 0)
    assert scaled.a.dtype == torch.float32
    assert scaled.a.max() < -0.9


def test_the_fingerprint_of_an_evaluation_sees_every_pixel(root):
    def painted(folder, level):  # of one size in bytes, whatever the level
        Image.new("RGB", (20, 16), (level,) * 3).save(root / folder / "0.bmp")
        module = ready(data(str(root)))
        return module.fingerprint("fit"), module.fingerprint("test")

    (fit, test), (fit_again, test_again) = painted("testA", 1), painted("testA", 2)
    assert test != test_again
    assert fit == fit_again
    assert painted("trainA", 1) == painted("trainA", 2) == (painted("trainA", 3)[0], test_again)


def test_names_are_the_files_of_each_training_batch(root):
    module = ready(data(str(root)))
    assert isinstance(module, NamesImages)
    for iteration, batch in enumerate(module.train_dataloader()):
        names = module.image_names(iteration, 0)
        for field, folder, level in (("a", "trainA", 0), ("b", "trainB", 10)):
            assert names[field] == [str(root / folder / f"{v - level}.png") for v in levels(getattr(batch, field))]
    assert module.image_names(7, 0) == module.image_names(7, 0) != module.image_names(1, 0)


def test_evaluation_is_in_order_and_repeats_the_shorter_domain(root):
    module = ready(data(str(root)))
    for loader in (module.val_dataloader(), module.test_dataloader()):
        batches = list(loader)
        assert [level for batch in batches for level in levels(batch.a)] == [20, 21, 20, 21]
        assert [level for batch in batches for level in levels(batch.b)] == [30, 31, 32, 33]


def test_prediction_has_a_loader_for_each_domain(root):
    module = data(test_a=str(root / "testA"), test_b=str(root / "testB"), size=(16, 20))
    module.setup("predict")
    batches = [[batch for batch in loader] for loader in module.predict_dataloader()]
    assert all(
        isinstance(batch, ImageBatch) and batch.image.shape[1:] == (3, 16, 20) for one in batches for batch in one
    )
    seen = [[level for batch in one for level in levels(batch.image)] for one in batches]
    assert seen == [[20, 21], [30, 31, 32, 33]]


def test_explicit_folders_and_lists_replace_those_of_the_root(root, tmp_path):
    listing = tmp_path / "some.txt"
    listing.write_text("photos/trainB/2.png\nphotos/trainB/0.png\n")
    module = ready(data(str(root), train_a=str(listing)))
    assert {level for batch in module.train_dataloader() for level in levels(batch.a)} == {10, 12}


def test_augmented_training_is_the_same_for_any_number_of_workers(root):
    rng = np.random.default_rng(0)
    for file in root.rglob("*.png"):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(file)
    plain = list(ready(data(str(root), seed=3)).train_dataloader())
    other = list(ready(data(str(root), seed=3, num_workers=2)).train_dataloader())
    assert all(torch.equal(x.a, y.a) and torch.equal(x.b, y.b) for x, y in zip(plain, other, strict=True))
    changed = list(ready(data(str(root), seed=4)).train_dataloader())
    assert not all(torch.equal(x.a, y.a) for x, y in zip(plain, changed, strict=True))


def remove(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_missing_folders_show_the_tree(root, tmp_path):
    tree = r"must hold trainA/ and trainB/ .* and testA/ and testB/"
    with pytest.raises(FileNotFoundError, match=rf"no folder .*trainA: .*{tree}.* but .*gone does not exist"):
        data(str(tmp_path / "gone")).setup("fit")
    with pytest.raises(FileNotFoundError, match=rf"{tree}.*photos does, so set root to it"):
        data(str(root.parent)).setup("fit")
    with pytest.raises(FileNotFoundError, match=rf"{tree}.*photos does, so set root to it"):
        data(str(root / "trainA")).setup("fit")
    remove(root / "testB")
    with pytest.raises(FileNotFoundError, match=rf"no folder .*testB: .*{tree}.*move some images of trainB there"):
        data(str(root)).setup("fit")
    (root / "trainA").rename(root / "horse")
    with pytest.raises(FileNotFoundError, match=rf"{tree}.*but it holds horse, testA, trainB"):
        data(str(root)).setup("fit")
    with pytest.raises(ValueError, match=rf"`root` or `train_a`: root {tree}"):
        data().setup("fit")


def test_broken_content_is_named_before_training(root):
    (root / "trainA" / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"Cannot read image .*trainA/1\.png"):
        data(str(root)).prepare_data()
    Image.new("RGB", (40, 12)).save(root / "trainA" / "1.png")
    crop = [{"class_path": "RandomCrop", "init_args": {"height": 16, "width": 16}}]
    with pytest.raises(ValueError, match=r"trainA/1\.png \(40x12 pixels.*16x16"):
        data(str(root), train_transforms=crop).setup("fit")
    for name in ("1.png", "2.png", "3.png", "4.png"):
        (root / "trainA" / name).unlink()
    with pytest.raises(ValueError, match=r"trainA holds a single image.*at least two"):
        data(str(root)).setup("fit")
    (root / "trainA" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"trainA holds no image: it is empty"):
        data(str(root)).setup("fit")


def test_file_that_breaks_during_training_is_named(root):
    module = ready(data(str(root)))
    for file in (root / "trainB").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"Cannot read image .*trainB/\d\.png"):
        next(iter(module.train_dataloader()))


class Recorder(pl.LightningModule):
    """Writes down what it is given; one optimizer step per batch makes global_step count batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(((batch.a + 1) * 127.5, (batch.b + 1) * 127.5))
        return self.weight * batch.a.mean()

    def validation_step(self, batch, batch_idx): ...

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class StopAt(pl.Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def run(root, workers, callbacks=(), ckpt_path=None):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=8, max_epochs=-1, enable_checkpointing=False, callbacks=list(callbacks), **quiet
    )
    model = Recorder()
    try:
        trainer.fit(model, datamodule=data(str(root), num_workers=workers), ckpt_path=ckpt_path)
    except (KeyboardInterrupt, SystemExit):
        assert callbacks
    return model.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("step", "workers"), [(1, 0), (2, 2), (3, 0), (4, 2), (6, 0)])  # 3 iterations per epoch
def test_killed_and_resumed_training_sees_the_same_images(root, tmp_path, step, workers):
    whole = run(root, 0)
    assert len(whole) == 8
    path = str(tmp_path / "stop.ckpt")
    parts = run(root, workers, [StopAt(step, path)]) + run(root, workers, ckpt_path=path)
    assert len(parts) == 8
    for one, two in zip(whole, parts, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
