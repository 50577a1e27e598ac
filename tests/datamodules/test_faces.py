import hashlib
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from datamodules.procedural.faces import (
    AMOUNTS,
    ATTRIBUTES,
    CLASSES,
    DOMAINS,
    FACTORS,
    PROBABILITIES,
    STYLE,
    Marginals,
    attributes_of,
    classes,
    face,
    factors,
    facts_of,
    planes,
    planes_and_classes,
    style,
)

FRONTAL = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "x": 0.0, "y": 0.0, "scale": 1.0}
PLAIN = dict.fromkeys(ATTRIBUTES, 0.0) | FRONTAL

# Where each attribute may be seen: left, top, right, bottom in head coordinates (crown at -1, chin at 1).
BOXES = {
    "smile": (-0.8, -0.40, 0.8, 1.0),  # the eyes smile as well
    "glasses": (-0.95, -0.26, 0.95, 0.40),
    "beard": (-1.0, -0.15, 1.0, 1.5),
    "long_hair": (-1.5, -1.4, 1.5, 2.0),
    "dark_hair": (-1.2, -1.4, 1.2, 0.7),
    "bangs": (-1.0, -1.05, 1.0, 0.05),
    "old": (-1.2, -1.4, 1.2, 1.15),
    "hat": (-1.25, -1.5, 1.25, -0.1),
}


def pixels(box: tuple[float, float, float, float], size: int = 64) -> np.ndarray:
    place = (np.arange(size) + 0.5 - size / 2) / size
    x, y = place / 0.335, (place - 0.005) / 0.335
    left, top, right, bottom = box
    return (x >= left) & (x <= right) & ((y >= top) & (y <= bottom))[:, None]


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(float) - b).mean(axis=2)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255.0**2 / np.mean((a.astype(float) - b) ** 2)))


def phi(bits: np.ndarray, a: str, b: str) -> float:
    return float(np.corrcoef(bits[:, ATTRIBUTES.index(a)], bits[:, ATTRIBUTES.index(b)])[0, 1])


def test_names_agree():
    assert DOMAINS == ("photo", "sketch", "paint")
    assert tuple(STYLE) == DOMAINS
    assert tuple(PROBABILITIES) == ATTRIBUTES == tuple(BOXES)
    assert not set(ATTRIBUTES) & set(FACTORS)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 40), (512, 32), (512, 512)])
def test_every_domain_at_every_size(domain, size):
    portrait = face(1, 2, domain, *size)
    assert portrait.image.shape == (*size, 3)
    assert portrait.image.dtype == portrait.semantic.dtype == np.uint8
    assert portrait.semantic.shape == size
    assert portrait.style.shape == (len(STYLE[domain]),)
    assert portrait.domain == DOMAINS.index(domain)
    assert portrait.image.std() > 10  # there is something to see
    seen = set(np.unique(portrait.semantic).tolist())
    assert {CLASSES.index(name) for name in ("background", "skin", "hair")} <= seen


@pytest.mark.parametrize("domain", DOMAINS)
def test_same_arguments_same_arrays(domain):
    first, again = (face(3, 7, domain, 64, 64, 1) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.semantic, again.semantic)
    assert first.face == again.face
    render = pickle.loads(pickle.dumps(partial(planes, seed=3, first=4, domain=domain, height=64, width=64, draw=1)))
    assert np.array_equal(render(3).transpose(1, 2, 0), first.image)
    four = planes_and_classes(3, 3, 4, domain, 64, 64)
    assert np.array_equal(four[:3], planes(3, 3, 4, domain, 64, 64))
    assert np.array_equal(four[3], first.semantic)
    assert np.array_equal(classes(3, 3, 4, 64, 64), first.semantic)


def test_another_process_draws_the_same_and_loads_no_torch():
    here = hashlib.sha256(b"".join(face(3, 7, domain, 64, 48).image.tobytes() for domain in DOMAINS)).hexdigest()
    program = (
        "import hashlib, sys; from datamodules.procedural.faces import DOMAINS, face;"
        "print(hashlib.sha256(b''.join(face(3, 7, d, 64, 48).image.tobytes() for d in DOMAINS)).hexdigest(),"
        "'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.split() == [here, "False"]


def test_a_face_depends_on_seed_and_index_only():
    first = face(3, 7, "photo", 64, 64)
    for domain in DOMAINS:
        for size, draw in (((64, 64), 0), ((64, 64), 3), ((32, 96), 0)):
            other = face(3, 7, domain, *size, draw)
            assert other.face == first.face == factors(3, 7)
            if size == (64, 64):
                assert np.array_equal(other.semantic, first.semantic)
    assert factors(4, 7) != first.face
    assert factors(3, 8) != first.face


@pytest.mark.parametrize("domain", DOMAINS)
def test_style_depends_on_domain_and_draw_not_on_size(domain):
    first, other = face(3, 7, domain, 64, 64), face(3, 7, domain, 64, 64, 1)
    assert np.array_equal(face(3, 7, domain, 32, 128).style, first.style)
    assert np.array_equal(style(3, 7, domain, 1), other.style)
    assert not np.array_equal(other.style, first.style)
    assert not np.array_equal(other.image, first.image)
    assert 0 <= first.style.min() <= first.style.max() <= 1


# A translation cannot know the style that is drawn: this is its ceiling.
@pytest.mark.parametrize(
    ("domain", "low", "high"), [("photo", 25.0, 32.0), ("sketch", 20.0, 28.0), ("paint", 21.0, 28.0)]
)
def test_two_styles_of_a_face_are_near(domain, low, high):
    pairs = [(face(5, i, domain, 64, 64), face(5, i, domain, 64, 64, 1)) for i in range(12)]
    assert low <= np.mean([psnr(a.image, b.image) for a, b in pairs]) <= high


def test_domains_are_further_apart_than_styles():
    for domain, other in (("photo", "sketch"), ("photo", "paint"), ("sketch", "paint")):
        pairs = [(face(5, i, domain, 64, 64), face(5, i, other, 64, 64)) for i in range(12)]
        assert np.mean([psnr(a.image, b.image) for a, b in pairs]) < 19.5


def test_sketches_are_grey_and_the_others_are_not():
    for domain in DOMAINS:
        image = face(0, 1, domain, 64, 64).image.astype(int)
        assert (np.ptp(image, axis=2).max() == 0) == (domain == "sketch")


@pytest.mark.parametrize("domain", DOMAINS)
def test_all_domains_have_their_edges_where_the_parts_meet(domain):
    for index in range(6):
        portrait = face(2, index, domain, 96, 96)
        kinds, grey = portrait.semantic.astype(int), portrait.image.astype(float).mean(axis=2)
        meets = kinds[:, 1:] != kinds[:, :-1]
        slope = np.abs(np.diff(grey, axis=1))
        assert slope[meets].mean() > 2.5 * slope[~meets].mean()


def test_factors_fill_their_ranges_and_marginals_do_not_move_them():
    facts = facts_of(9, 0, 400)
    assert facts.shape == (400, len(FACTORS))
    assert facts.dtype == np.float32
    assert facts.min() >= 0
    assert facts.max() <= 1
    assert (facts.min(axis=0) < 0.05).all()
    assert (facts.max(axis=0) > 0.95).all()
    assert np.abs(np.corrcoef(facts.T) - np.eye(len(FACTORS))).max() < 0.25
    always = Marginals(dict.fromkeys(ATTRIBUTES, 1.0))
    assert factors(9, 3, always).factors == factors(9, 3).factors
    np.testing.assert_allclose(factors(9, 3).facts(), facts[3])


def test_attributes_have_their_probabilities():
    bits = attributes_of(1, 0, 3000)
    assert bits.dtype == np.uint8
    chances = np.array(list(PROBABILITIES.values()))
    assert (np.abs(bits.mean(axis=0) - chances) < 4 * np.sqrt(chances * (1 - chances) / 3000)).all()
    assert np.abs(np.corrcoef(bits.T) - np.eye(len(ATTRIBUTES))).max() < 4 / np.sqrt(3000)
    some = attributes_of(1, 0, 500, Marginals({"hat": 0.0, "beard": 1.0}))
    assert some[:, ATTRIBUTES.index("hat")].max() == 0
    assert some[:, ATTRIBUTES.index("beard")].min() == 1
    assert np.array_equal(attributes_of(1, 40, 3), bits[40:43])


def test_attributes_correlate_as_the_copula_says():
    half = dict.fromkeys(("smile", "glasses", "beard", "old"), 0.5)
    bits = attributes_of(1, 0, 3000, Marginals(half, (("smile", "glasses", 0.8), ("beard", "old", -0.5))))
    assert phi(bits, "smile", "glasses") == pytest.approx(2 / np.pi * np.arcsin(0.8), abs=0.06)
    assert phi(bits, "beard", "old") == pytest.approx(-1 / 3, abs=0.07)
    assert abs(phi(bits, "smile", "old")) < 0.07
    assert (np.abs(bits[:, [ATTRIBUTES.index(name) for name in half]].mean(axis=0) - 0.5) < 0.04).all()
    one = attributes_of(1, 0, 300, Marginals(half, (("smile", "old", 1.0), ("glasses", "beard", -1.0))))
    assert phi(one, "smile", "old") == pytest.approx(1.0)
    assert phi(one, "glasses", "beard") == pytest.approx(-1.0)


def test_amounts_lie_in_the_range_of_their_bit():
    for index in range(60):
        drawn = factors(4, index)
        for name, bit in drawn.attributes.items():
            low, high = AMOUNTS[name][bit]
            assert low <= drawn.amounts[name] <= high


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_shows_at_64_and_only_where_it_belongs(domain, name):
    reach = 0.2 if domain == "paint" else 0.0  # of a stroke
    left, top, right, bottom = BOXES[name]
    box = pixels((left - reach, top - reach, right + reach, bottom + reach))
    for index in (0, 4, 8):
        without, having = (face(6, index, domain, 64, 64, overrides=PLAIN | {name: amount}) for amount in (0.0, 1.0))
        change = difference(without.image, having.image)
        assert change[box].sum() > 0.92 * change.sum(), index
        assert (change > 20).sum() > 40, index  # pixels that anyone can tell apart


def test_parts_follow_attributes():
    def count(part: str, **amounts: float) -> int:
        return int((face(6, 1, "photo", 64, 64, overrides=PLAIN | amounts).semantic == CLASSES.index(part)).sum())

    for attribute, part in (("glasses", "glasses"), ("beard", "beard"), ("hat", "hat")):
        assert count(part) == 0
        assert count(part, **{attribute: 1.0}) > 100
    smiles = [count("mouth", smile=amount) for amount in (0.0, 0.5, 1.0)]
    assert smiles[0] < smiles[1] < smiles[2]
    lengths = [count("hair", long_hair=amount) for amount in (0.0, 0.5, 1.0)]
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_head_turns_and_eyes_look_to_the_side():
    def middle(part: str, **factor: float) -> float:
        kinds = face(6, 1, "photo", 128, 128, overrides=PLAIN | factor).semantic
        return float(np.nonzero(kinds == CLASSES.index(part))[1].mean())

    assert middle("mouth", yaw=-20.0) + 8 < middle("mouth") < middle("mouth", yaw=20.0) - 8
    left, right = (face(6, 1, "photo", 64, 64, overrides=PLAIN | {"gaze_x": gaze}).image for gaze in (-1.0, 1.0))
    change = difference(left, right)
    assert change.max() > 40
    assert change[pixels((-0.62, -0.12, 0.62, 0.26))].sum() > 0.99 * change.sum()


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="'oil'; choose one of photo, sketch, paint"):
        face(0, 0, "oil", 64, 64)
    with pytest.raises(ValueError, match="16x64 cannot be rendered; each side must be 32 to 512"):
        face(0, 0, "photo", 16, 64)
    with pytest.raises(ValueError, match="0 or more, not -1, 0 and 0"):
        face(-1, 0, "photo", 64, 64)
    with pytest.raises(ValueError, match="0 or more, not 0 and -2"):
        factors(0, -2)
    with pytest.raises(ValueError, match="no 'moustache' to override; choose from smile, glasses"):
        face(0, 0, "photo", 64, 64, overrides={"moustache": 1.0})
    with pytest.raises(ValueError, match="override smile=1.5 is out of range; choose 0.0 to 1.0"):
        factors(0, 0, overrides={"smile": 1.5})
    with pytest.raises(ValueError, match=r"override yaw=nan is out of range; choose -22.0 to 22.0"):
        factors(0, 0, overrides={"yaw": float("nan")})


def test_bad_marginals_are_refused():
    for marginals, message in (
        (Marginals({"male": 0.5}), "no attribute 'male'; choose from smile, glasses"),
        (Marginals({}, (("smile", "male", 0.5),)), "no attribute 'male'"),
        (Marginals({"hat": 1.2}), "probability of 'hat' must be 0 to 1, not 1.2"),
        (Marginals({}, (("hat", "old", -2.0),)), "'hat' and 'old' must be -1 to 1, not -2.0"),
        (Marginals({}, (("hat", "hat", 0.5),)), "must join two attributes and stand once"),
        (Marginals({}, (("hat", "old", 0.5), ("old", "hat", 0.5))), "must join two attributes and stand once"),
        (
            Marginals({}, (("hat", "old", 0.9), ("old", "smile", 0.9), ("hat", "smile", -0.9))),
            "not positive definite: hat-old 0.9, old-smile 0.9, hat-smile -0.9",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            attributes_of(0, 0, 1, marginals)
