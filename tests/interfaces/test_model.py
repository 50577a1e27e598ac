import pytest
import torch

from interfaces.model import LatentSpec, Stylist, Translator, require


class Half:
    domains = ("a", "b")

    def translate(self, x, source, target, style=None):
        return x


class Whole(Half):
    style_spec = None


def test_draws_are_repeatable_and_of_the_prior() -> None:
    normal, uniform = LatentSpec(3), LatentSpec(3, prior="uniform")
    rng = torch.Generator()
    x = normal.draw(4000, rng.manual_seed(1))
    assert torch.equal(x, normal.draw(4000, rng.manual_seed(1)))
    assert x.shape == (4000, 3)
    assert x.mean().abs() < 0.05
    assert abs(x.std() - 1) < 0.05
    y = uniform.draw(4000, rng.manual_seed(1))
    assert y.abs().max() <= 1
    assert abs(y.std() - 3**-0.5) < 0.02


def test_a_mapped_code_is_what_becomes_of_a_normal_draw() -> None:
    spec, rng = LatentSpec(3, prior="mapped", mapping=lambda z: 2 * z + 1), torch.Generator()
    assert torch.equal(spec.draw(5, rng.manual_seed(1)), 2 * LatentSpec(3).draw(5, rng.manual_seed(1)) + 1)


def test_only_a_mapped_code_has_a_mapping() -> None:
    for wrong in ({"prior": "mapped"}, {"mapping": torch.sin}):
        with pytest.raises(ValueError, match="only 'mapped' has one"):
            LatentSpec(3, **wrong)


def test_a_missing_member_is_named() -> None:
    require(Whole(), Translator, object())
    assert isinstance(Whole(), Translator)
    with pytest.raises(TypeError, match="needs a Translator, but Half has no style_spec"):
        require(Half(), Translator, object())


def test_members_of_the_wider_protocol_are_asked_for_too() -> None:
    with pytest.raises(TypeError, match="needs a Stylist, but Half has no style_of, style_spec"):
        require(Half(), Stylist, object())
    assert not isinstance(Whole(), Stylist)
