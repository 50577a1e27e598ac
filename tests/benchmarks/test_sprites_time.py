"""What an iteration waits for sprites."""

import re

import pytest
import torch

from benchmarks import sprites_time
from lightning_modules.beta_vae import BetaVAE

CPU = torch.device("cpu")


def test_sprites_are_measured_beside_the_experiments_networks(monkeypatch: pytest.MonkeyPatch):
    built = []

    def remember(**arguments):
        built.append(BetaVAE(**arguments))
        return built[-1]

    monkeypatch.setattr(sprites_time, "BetaVAE", remember)
    wait, alone = sprites_time.rows(CPU, 3)
    (model,) = built
    assert [layer.out_features for layer in model.encoder.layers] == [400, 400]
    assert (model.beta, model.lr) == (8, 1e-3)
    found = re.fullmatch(r"\| waiting for 64 sprites \| ([\d.]+) ms \| ([\d.]+)% \|", wait)
    assert found
    assert float(found[1]) > 0
    assert 0 <= float(found[2]) < 100
    assert re.fullmatch(r"\| the loader alone \| [\d,]+ images/s \| \|", alone)
