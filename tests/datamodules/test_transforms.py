import numpy as np
import pytest
import torch

from datamodules.transforms import Pipeline, default_eval, default_train

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def spec(name, **init_args):
    return {"class_path": name, "init_args": init_args}


def test_defaults_flip_resize_and_crop_to_bytes():
    pipeline = Pipeline(default_train((16, 24)))
    outs = [pipeline(NOISE, (0, q, 0)) for q in range(20)]
    assert {(tuple(out.shape), out.dtype) for out in outs} == {((3, 16, 24), torch.uint8)}
    assert len({out.numpy().tobytes() for out in outs}) > 5
    assert torch.equal(outs[3], pipeline(NOISE, (0, 3, 0)))  # the key decides alone, whatever came between
    assert not torch.equal(outs[3], pipeline(NOISE, (1, 3, 0)))


def test_flip_is_a_fair_coin():
    pipeline = Pipeline([spec("HorizontalFlip", p=0.5)])
    straight = torch.from_numpy(NOISE).permute(2, 0, 1)
    outs = [pipeline(NOISE, (0, q)) for q in range(400)]
    assert all(torch.equal(out, straight) or torch.equal(out, straight.flip(2)) for out in outs)
    flips = sum(torch.equal(out, straight.flip(2)) for out in outs)
    assert 150 < flips < 250  # five standard deviations


def test_evaluation_takes_the_centre_and_draws_nothing():
    pipeline = Pipeline(default_eval((40, 40)))
    out = pipeline(NOISE, (0,))
    assert torch.equal(out, pipeline(NOISE, (1,)))
    assert torch.equal(out, torch.from_numpy(NOISE[:, 10:50]).permute(2, 0, 1))


def test_resize_argument_sets_the_shorter_side():
    assert default_train((16, 24), 30)[1] == spec("SmallestMaxSize", max_size=30, area_for_downscale="image")
    assert Pipeline([spec("SmallestMaxSize", max_size=20)])(NOISE, (0,)).shape == (3, 20, 30)


@pytest.mark.parametrize("path", ["RandomCrop", "albumentations.RandomCrop", "albumentations.augmentations.RandomCrop"])
def test_short_and_full_names(path):
    assert Pipeline([spec(path, height=8, width=9)])(NOISE, (0,)).shape == (3, 8, 9)


def test_nested_transforms_and_tensor_output():
    inner = [{"class_path": "HorizontalFlip"}, {"class_path": "VerticalFlip"}]
    pipeline = Pipeline([spec("OneOf", transforms=inner, p=1.0), spec("ToTensorV2")])
    assert pipeline(NOISE, (0,)).shape == (3, 40, 60)
    with pytest.raises(ValueError, match="nearest name is VerticalFlip"):
        Pipeline([spec("OneOf", transforms=[{"class_path": "VertcalFlip"}])])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spec("RandomCorp", height=8, width=8), "'RandomCorp'; the nearest name is RandomCrop"),
        (spec("randomcrop", height=8, width=8), "nearest name is RandomCrop"),
        (spec("torchvision.transforms.RandomCrop", height=8, width=8), "no albumentations transform 'torchvision"),
        (spec("RandomCrop", heigth=8, width=8), "RandomCrop has no argument 'heigth'; the nearest name is height"),
        (spec("HorizontalFlip", zzz=1), "no argument 'zzz'; it takes p"),
        (spec("RandomCrop", height="tall", width=8), "height: Input should be a valid integer"),
        (spec("RandomCrop", height=8), "RandomCrop refuses .*width: Field required"),
    ],
)
def test_mistakes_get_one_sentence(bad, message):
    with pytest.raises(ValueError, match=message) as caught:
        Pipeline([bad])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad", ["HorizontalFlip", {"name": "HorizontalFlip"}, {"class_path": "HorizontalFlip", "p": 1}]
)
def test_an_entry_of_another_form_is_shown_the_right_one(bad):
    with pytest.raises(TypeError, match="class_path: RandomCrop"):
        Pipeline([bad])


@pytest.mark.parametrize("default", [default_train, default_eval])
def test_shrinking_averages_instead_of_picking_pixels(default):
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    seen = Pipeline(default((64, 64)))(noise, (0,)).float()
    assert seen.std() == pytest.approx(noise.std() / 8, rel=0.1)  # each pixel is the mean of 8 x 8


def test_check_names_the_image_that_is_too_small_even_when_it_is_not_the_smallest_area():
    pipeline = Pipeline([spec("RandomCrop", height=32, width=32)])
    pipeline.check(["x", "y"], [(32, 32), (100, 50)], (32, 32))
    with pytest.raises(ValueError, match=r"flat.png \(400x31 pixels.* to 32x32: Crop size .*enlarge or remove"):
        pipeline.check(["small.png", "flat.png"], [(32, 32), (31, 400)], (32, 32))
    Pipeline(default_train((32, 32))).check(["tiny"], [(5, 9)], (32, 32))  # enlarged by SmallestMaxSize


def test_check_refuses_another_size_than_the_batch_needs():
    with pytest.raises(ValueError, match=r"make \(3, 16, 16\).*must be \(3, 32, 32\)"):
        Pipeline([spec("CenterCrop", height=16, width=16)]).check(["x"], [(40, 40)], (32, 32))
    with pytest.raises(ValueError, match=r"end with a crop"):
        Pipeline([spec("SmallestMaxSize", max_size=32)]).check(["x", "y"], [(40, 40), (40, 60)], (32, 32))


def test_normalised_images_pass_through_if_they_are_in_range():
    crop = spec("RandomCrop", height=8, width=8)
    half = Pipeline([crop, spec("Normalize", mean=[0.5] * 3, std=[0.5] * 3)])
    half.check(["x"], [(40, 40)], (8, 8))
    out = half(np.full((40, 40, 3), 255, np.uint8), (0,))
    assert out.dtype == torch.float32
    assert torch.equal(out, torch.ones(3, 8, 8))
    with pytest.raises(ValueError, match=r"models take \[-1, 1\]: leave Normalize out"):
        Pipeline([crop, spec("Normalize")]).check(["x"], [(40, 40)], (8, 8))


def test_floats_that_never_go_below_zero_are_refused():
    with pytest.raises(ValueError, match="black"):
        Pipeline([spec("ToFloat", max_value=255.0)]).check(["x"], [(8, 8)], (8, 8))
