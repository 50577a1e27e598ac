"""The watchdog on trainings: silent on healthy ones, awake within 200 iterations of a scripted collapse."""

import json
import os

import pytest
import torch

from callbacks.watchdog import Watchdog
from datamodules.streets import Streets
from tests.callbacks.toy import toy_trainer
from tests.lightning_modules.cases import drit, munit, unit

STEPS = 200
HEALTHY = int(os.environ.get("CROSSFADE_HEALTHY_RUNS", "4"))  # 20, and more, have been silent; each takes 20 seconds


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def warned(folder, module, seed, batch_size=1, look=100):
    """Warnings of a training without any validation, by kind."""
    data = Streets(size=32, scenes=100, val_scenes=8, batch_size=batch_size, seed=seed, flip=True)
    toy_trainer(folder, [Watchdog(look=look)], max_steps=STEPS, limit_val_batches=0).fit(module, data)
    path = folder / "warnings.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["kind"]: line["iteration"] for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(HEALTHY))
def test_healthy_runs_raise_no_warning(tmp_path, seed):
    torch.manual_seed(seed)
    style = {"least_squares": False, "dis_scales": 1} if seed % 4 == 3 else {"dis_init": 0.07}
    assert warned(tmp_path, unit(blocks=1, **style), seed, look=40) == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_healthy_runs_with_styles_raise_no_warning(tmp_path, seed):
    """Among them one whose decoders start nearly indifferent to styles, and one without mode seeking."""
    torch.manual_seed(seed)
    start = {"calm_start": True, "same_start": True} if seed == 1 else {}
    assert warned(tmp_path / "munit", munit(blocks=1, dis_init=0.07, **start), seed, look=40) == {}
    seeking = {"lambda_ms": 0.0} if seed == 1 else {}
    assert warned(tmp_path / "drit", drit(**seeking), seed, batch_size=2, look=40) == {}


@pytest.mark.slow
@pytest.mark.parametrize("least_squares", [True, False])
def test_a_generator_frozen_to_a_constant_is_seen(tmp_path, least_squares):
    """Its images are all one, and nothing is easier to tell from streets; a running average knows nothing of it."""
    torch.manual_seed(0)
    module = unit(dis_width=8, lr=2e-3, dis_init=0.07, least_squares=least_squares, ema=0.997)
    for decoder in module.decoders:
        decoder.register_forward_hook(lambda *inputs_and_output: 0 * inputs_and_output[-1] + 0.9)
    seen = warned(tmp_path, module, 0)
    assert seen.keys() == {"collapse", "saturation"}
    assert max(seen.values()) <= 200


@pytest.mark.slow
def test_decoders_that_hardly_look_at_styles_are_seen(tmp_path):
    torch.manual_seed(0)
    module = munit(blocks=1, dis_init=0.07)
    for decoder in module.decoders:
        decoder.register_forward_pre_hook(lambda _, inputs: (inputs[0], 0.01 * inputs[1]))
    assert warned(tmp_path, module, 0) == {"style_collapse": 200}
