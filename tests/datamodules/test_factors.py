from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser

from datamodules.factor_grid import factors_of, index_of
from datamodules.factors import FactorDataModule, FactorSource, IndependentSampler, LabelledSource
from datamodules.procedural.sprites import Sprites
from interfaces.batch import FactorBatch, FactorData, ImageBatch, NamesImages


class Tiny:
    """A grid of 2 x 3 x 4 images of 2x2 pixels, of which each shows its number."""

    names = ("a", "b", "c")
    sizes = (2, 3, 4)
    image_shape = (1, 2, 2)

    def images(self, factors):
        index = index_of(factors, self.names, self.sizes)
        return np.broadcast_to(index.astype(np.uint8)[:, None, None, None], (len(index), 1, 2, 2)).copy()

    def fingerprint(self):
        return "tiny"


class Labelled(Tiny):
    """Ten images of two labels, of which six are for training."""

    names = ("label",)
    sizes = (2,)
    labels = np.array([0, 1] * 5)[:, None]
    trained = 6

    def rows(self, index):
        return np.broadcast_to(index.astype(np.uint8)[:, None, None, None], (len(index), 1, 2, 2)).copy()


def ready(source=None, stage="fit", trainer=None, **changes):
    module = FactorDataModule(source or Tiny(), **{"val_images": 5, "batch_size": 4, **changes})
    module.trainer = trainer
    module.prepare_data()
    module.setup(stage)
    return module


def at(step=0, rank=0, world=1):
    """What the module asks of a trainer."""
    return SimpleNamespace(global_step=step, global_rank=rank, world_size=world, _accelerator_connector=None)


def numbers(batches):
    """Numbers of the images shown, after a check that factors are theirs."""
    shown = torch.cat([batch.image[:, 0, 0, 0] for batch in batches]).numpy().astype(np.int64)
    factors = torch.cat([batch.factors for batch in batches])
    assert factors.dtype == torch.int64
    assert np.array_equal(factors.numpy(), factors_of(shown, Tiny.sizes))
    return shown.tolist()


# Training


def test_training_gives_images_with_their_factors():
    module = ready()
    assert isinstance(module, FactorData)
    assert isinstance(module, NamesImages)
    assert (module.factor_names, module.factor_sizes) == (("a", "b", "c"), (2, 3, 4))
    assert module.image_shape == (1, 2, 2)
    batches = list(module.train_dataloader())
    assert len(batches) == len(module.train_dataloader()) == 24 / 4
    for batch in batches:
        assert isinstance(batch, FactorBatch)
        assert (batch.image.shape, batch.image.dtype) == ((4, 1, 2, 2), torch.uint8)
    numbers(batches)


def test_draws_are_independent_and_uniform_with_replacement():
    drawn = [q for step in range(0, 3000, 6) for q in numbers(ready(trainer=at(step)).train_dataloader())]
    counts = np.bincount(drawn, minlength=24)
    assert len(drawn) == 500 * 24
    # The sum of squared deviations over the mean is chi-squared with 23 degrees of freedom: 23 +- 6.8.
    assert 6.0 < ((counts - 500.0) ** 2 / 500.0).sum() < 60.0
    # Of 24 draws with replacement, 1 - (23/24)^24 = 64 % of the images come; a permutation would show all.
    epochs = np.array(drawn).reshape(500, 24)
    assert np.mean([len(set(epoch)) for epoch in epochs.tolist()]) / 24 == pytest.approx(0.64, abs=0.01)
    pairs = Counter(zip(drawn[:-1], drawn[1:], strict=True))
    assert len(pairs) > 0.99 * 24 * 24  # whatever came last says nothing


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_goes_on_with_the_very_batches(workers):
    whole = [batch for step in (0, 6) for batch in ready(trainer=at(step), seed=3).train_dataloader()]
    for step in (1, 5, 6):
        resumed = list(ready(trainer=at(step), seed=3, num_workers=workers).train_dataloader())
        assert numbers(resumed) == numbers(whole[step : step + 6])[: len(numbers(resumed))]
        assert len(resumed) == 6
    assert numbers(ready(seed=4).train_dataloader()) != numbers(whole[:6])


def test_two_ranks_see_what_one_with_the_doubled_batch_does():
    one = list(ready(batch_size=8).train_dataloader())
    ranks = [list(ready(trainer=at(rank=r, world=2)).train_dataloader()) for r in (0, 1)]
    assert [len(each) for each in ranks] == [len(one)] * 2
    for whole, *halves in zip(one, *ranks, strict=True):
        both = numbers([whole])
        assert [numbers([half]) for half in halves] == [both[0::2], both[1::2]]


def test_draws_do_not_depend_on_where_a_block_of_them_ends():
    far = IndependentSampler(1000, 64, 7, lambda: 60)
    near = IndependentSampler(1000, 64, 7, lambda: 0)
    assert list(far)[: 8 * 64] == [i for step in range(60, 68) for i in near.iteration(step)]  # over 4096
    assert len(set(near.iteration(60)) & set(near.iteration(124))) < 20  # blocks are not repeated
    assert len(far) == 1024
    with pytest.raises(ValueError, match="a batch of 1 or more, not 5 and 0"):
        IndependentSampler(5, 0, 0, lambda: 0)


def test_names_are_the_factors_of_each_training_batch():
    for world in (1, 2):
        for rank in range(world):
            module = ready(trainer=at(rank=rank, world=world))
            for iteration, batch in enumerate(module.train_dataloader()):
                names = module.image_names(iteration, rank)["image"]
                assert names == [
                    f"a {a}, b {b}, c {c} (image {i})"
                    for (a, b, c), i in zip(batch.factors.tolist(), numbers([batch]), strict=True)
                ]


# Evaluation


def test_evaluations_are_fixed_disjoint_random_subsets():
    val, test = (numbers(getattr(ready(stage="test"), f"{part}_dataloader")()) for part in ("val", "test"))
    assert (len(val), len(set(val + test))) == (5, 10)
    assert val != sorted(val)
    assert val == numbers(ready(seed=9, batch_size=2, num_workers=1).val_dataloader())
    predicted = list(ready(stage="predict").predict_dataloader())
    assert all(isinstance(batch, ImageBatch) for batch in predicted)
    assert torch.cat([batch.image for batch in predicted])[:, 0, 0, 0].tolist() == val


@pytest.mark.parametrize("world", [2, 5])
def test_shards_of_an_evaluation_are_disjoint_and_complete(world):
    whole = numbers(ready().val_dataloader())
    shards = [numbers(ready(trainer=at(rank=r, world=world)).val_dataloader()) for r in range(world)]
    assert shards == [whole[r::world] for r in range(world)]
    with pytest.raises(ValueError, match="Evaluation has 5 image"):
        ready(trainer=at(rank=5, world=6)).val_dataloader()


def test_images_of_given_factors():
    module = ready()
    factors = [[1, 2, 3], [0, 0, 1]]
    for given in (factors, np.array(factors, np.int32), torch.tensor(factors)):
        images = module.images(given)
        assert (images.dtype, images[:, 0, 0, 0].tolist()) == (np.uint8, [23, 1])
    with pytest.raises(ValueError, match="b is 3 in row 0 of factors: give 0 to 2"):
        module.images([[0, 3, 0]])


def test_bytes_are_scaled_and_factors_are_not():
    module = ready()
    batch = next(iter(module.train_dataloader()))
    scaled = module.on_after_batch_transfer(batch, 0)
    assert torch.equal(scaled.image, batch.image.float() / 127.5 - 1)
    assert torch.equal(scaled.factors, batch.factors)


def test_a_fingerprint_tells_stages_and_counts_apart():
    prints = [ready().fingerprint(stage) for stage in ("fit", "validate", "test")]
    prints += [ready(val_images=6).fingerprint("validate"), ready(Sprites()).fingerprint()]
    assert len(set(prints)) == 5
    assert ready(seed=9, batch_size=1).fingerprint() == prints[0]


# Sources that are no grid


def test_labelled_images_are_drawn_and_evaluated_apart():
    module = ready(Labelled(), val_images=2)
    assert isinstance(module.source, LabelledSource)
    assert not isinstance(Tiny(), LabelledSource)
    drawn = [
        batch
        for step in range(0, 40, 2)
        for batch in ready(Labelled(), "fit", at(step), val_images=2).train_dataloader()
    ]
    shown = torch.cat([batch.image[:, 0, 0, 0] for batch in drawn])
    assert set(shown.tolist()) == set(range(6))
    assert torch.equal(torch.cat([batch.factors for batch in drawn])[:, 0], shown.long() % 2)
    held = [list(loader) for loader in (module.val_dataloader(), module.test_dataloader())]
    assert sorted(torch.cat([b.image[:, 0, 0, 0] for batches in held for b in batches]).tolist()) == [6, 7, 8, 9]


def test_training_images_come_in_order_on_one_process_each():
    whole = [batch.image[:, 0, 0, 0] for batch in ready(Labelled(), val_images=2).labelled_dataloader()]
    assert torch.cat(whole).tolist() == [0, 1, 2, 3, 4, 5]
    for rank in range(4):
        (batch,) = ready(Labelled(), val_images=2, trainer=at(3, rank, 4)).labelled_dataloader()
        assert batch.image[:, 0, 0, 0].tolist() == list(range(rank, 6, 4))
        assert batch.factors[:, 0].tolist() == [k % 2 for k in range(rank, 6, 4)]
        assert batch.image.dtype == torch.uint8
    with pytest.raises(ValueError, match="data.source is Tiny, a grid, which has no list of training images"):
        ready().labelled_dataloader()


# Sprites, the command line, refusals


def test_sprites_train():
    module = ready(Sprites(), batch_size=64)
    batch = next(iter(module.train_dataloader()))
    assert np.array_equal(batch.image.numpy(), module.images(batch.factors))
    assert len(module.train_dataloader()) == 737_280 / 64


def test_a_source_is_named_in_an_experiment():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    init = {"source": {"class_path": "datamodules.procedural.sprites.Sprites"}, "batch_size": 32}
    config = parser.parse_object({"data": {"class_path": "datamodules.factors.FactorDataModule", "init_args": init}})
    module = parser.instantiate_classes(config).data
    assert (module.factor_sizes, module.batch_size) == ((3, 6, 40, 32, 32), 32)
    source: FactorSource = module.source
    assert isinstance(source, Sprites)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_images": 13}, "data.val_images is 13: give 12 or fewer"),
        ({"val_images": 0}, "data.val_images is 0 and data.batch_size is 4: give 1 or more"),
        ({"batch_size": 0}, "data.batch_size is 0: give 1 or more"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_drawn(changes, message):
    with pytest.raises(ValueError, match=message):
        ready(**changes)
