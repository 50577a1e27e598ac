import json
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger

import benchmarks.replay
from callbacks import incident
from callbacks.watchdog import Recent, Watchdog, inspected
from interfaces.batch import UnpairedBatch
from interfaces.model import LatentSpec
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp
from tests.lightning_modules.cases import CASES, Batches, drit, munit, unit


class Poisoned(ToyData):
    """Iteration ``bad`` of one rank has a pixel that is not a number."""

    def __init__(self, bad, rank=0, size=12):
        super().__init__()
        self.bad, self.bad_rank, self.size = bad, rank, size

    def train_dataloader(self):
        rng = torch.Generator().manual_seed(0)
        batches = [
            UnpairedBatch(*(torch.rand(2, 3, self.size, self.size, generator=rng) for _ in "ab")) for _ in range(8)
        ]
        if self.trainer.global_rank == self.bad_rank:
            batches[self.bad].b[1, 0, 0, 0] = float("nan")
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def image_names(self, iteration, rank):
        return {"a": [f"a{iteration}{rank}{k}" for k in range(2)], "b": [f"b{iteration}{rank}{k}" for k in range(2)]}


def warnings_of(folder):
    path = folder / "warnings.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def stopped(folder, watchdog, module=None, data=None, **options):
    trainer = toy_trainer(folder, [watchdog], max_steps=8, limit_val_batches=0, **options)
    with pytest.raises(SystemExit) as end:
        trainer.fit(module or Toy(), data or Poisoned(3))
    return str(end.value), trainer


def test_a_batch_that_is_not_finite_stops_with_everything_needed_to_look_again(tmp_path):
    text, trainer = stopped(tmp_path, Watchdog(every=100))
    assert trainer.global_step == 4
    assert text.startswith("Iteration 3: gradients are not finite, 1 optimizer step(s) left out.")
    for part in ("a300, a301", "b300, b301", "train/g/recon", "train/d/a", "b (1 values)"):
        assert part in text
    assert f"python -m benchmarks.replay {tmp_path}/replay/3.pt" in text
    saved = torch.load(tmp_path / "replay" / "3.pt", weights_only=True)
    assert saved["class_path"] == "tests.callbacks.toy.Toy"
    assert (saved["iteration"], saved["rank"], saved["precision"]) == (3, 0, "32-true")
    assert saved["batch"]["b"].isnan().sum() == 1
    assert [line["kind"] for line in warnings_of(tmp_path)] == ["stopped"]


class OnGPU(Watchdog):
    """Reads one batch late."""

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self._lag = 1


def test_a_gpu_run_learns_of_it_a_batch_later_and_names_the_right_one(tmp_path):
    watchdog = OnGPU(every=100)
    text, trainer = stopped(tmp_path, watchdog)
    assert trainer.global_step == 5
    assert "Iteration 3:" in text
    assert "train/g/recon" in text
    assert "a300" in text
    (tmp_path / "last").mkdir()
    text, trainer = stopped(tmp_path / "last", watchdog, data=Poisoned(7))  # the very last batch waits for the end
    assert "Iteration 7:" in text


def test_tolerated_steps_are_warned_of_once(tmp_path, capsys):
    watchdog = Watchdog(tolerate=1)
    data = Poisoned(3)
    toy_trainer(tmp_path, [watchdog], max_steps=8, limit_val_batches=0).fit(Toy(), data)
    assert [line["kind"] for line in warnings_of(tmp_path)] == ["not_finite"]
    assert capsys.readouterr().out.count("WARNING (iteration 3)") == 1
    text, _ = stopped(tmp_path, watchdog, data=Poisoned(3), module=Twice())
    assert "2 optimizer step(s)" in text


class Twice(Toy):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        self.descend(self.optimizers(), (batch.b * self.scale).mean())


class LogsNaN(Toy):
    """Iterations from 3 on log a term that nothing depends on and that is not a number, on one rank."""

    def __init__(self, rank=0):
        super().__init__()
        self.bad_rank = rank

    def training_step(self, batch, batch_idx):
        bad = self.trainer.global_step >= 3 and self.global_rank == self.bad_rank
        self.log_terms("g", {"odd": torch.tensor(float("inf") if bad else 0.0)})
        super().training_step(batch, batch_idx)


def test_a_logged_term_counts_too_at_the_next_reading(tmp_path):
    text, trainer = stopped(tmp_path, Watchdog(every=6), module=LogsNaN(), data=ToyData())
    assert trainer.global_step == 6
    assert text.startswith("Iteration 5: a logged term is not finite.")
    assert "not finite  train/g/odd" in text
    assert "images" not in text  # ToyData cannot name its images


def test_steps_left_out_before_a_resume_do_not_count(tmp_path):
    module = Toy()
    module.skipped += 3
    toy_trainer(tmp_path, [Watchdog()], limit_val_batches=0).fit(module, ToyData())
    assert warnings_of(tmp_path) == []


def _fit(rank, world, folder, kind):
    module, data = (Toy(), Poisoned(3, rank=1)) if kind == "batch" else (LogsNaN(rank=1), ToyData())
    trainer = toy_trainer(folder, [Watchdog(every=4)], max_steps=8, limit_val_batches=0, **ddp_options(world))
    try:
        trainer.fit(module, data)
    except SystemExit as end:
        return trainer.global_step, end.code, float(module.scale.detach())
    return "not stopped"


@pytest.mark.ddp
@pytest.mark.parametrize("kind", ["batch", "term"])
def test_a_fault_of_rank_1_stops_both(tmp_path, kind):
    (step, text, scale), (other_step, code, other_scale) = run_ddp(_fit, tmp_path, kind)
    assert (step, other_step, code, scale) == (4, 4, 1, other_scale)
    assert "rank 1" in text
    assert "rank 0" not in text
    assert ("b310, b311" in text) == (kind == "batch")
    assert [path.name for path in (tmp_path / "replay").iterdir()] == ["3-rank1.pt"]
    assert len(warnings_of(tmp_path)) == 1


# Replay


def test_replay_finds_the_first_thing_that_is_not_finite(tmp_path, capsys):
    torch.manual_seed(0)
    pl.seed_everything(3)
    stopped(tmp_path, Watchdog(), module=unit(), data=Poisoned(2, size=32))
    benchmarks.replay.main([str(tmp_path / "replay" / "2.pt"), "--accelerator", "cpu"])
    out = capsys.readouterr().out
    assert "lightning_modules.unit.UNIT  iteration 2  seed 3  rank 0" in out
    assert "batch.a  (2, 3, 32, 32)  finite  a200, a201" in out
    assert "batch.b  (2, 3, 32, 32)  1 of 6144 values not finite" in out
    terms = {line.split()[0]: line.endswith("NOT FINITE") for line in out.splitlines() if "train/" in line}
    assert len(terms) == 11
    assert terms["train/d/b"]
    assert any(line.startswith("  discriminators") and line.endswith("NOT FINITE") for line in out.splitlines())
    assert "weight       none" in out
    assert "activation   encoders.1." in out
    assert "Backward0' returned nan values" in out


def test_replay_repeats_noise_and_terms_of_the_run(tmp_path):
    """A module whose D and G steps are both left out is replayed to the very digits."""

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            self.terms = incident.numbers(incident.logged_terms(trainer))

    pl.seed_everything(4)
    keep, module = Keep(), unit(lr=0.0)
    toy_trainer(tmp_path, [keep], max_steps=3, limit_val_batches=0).fit(module, Poisoned(7, size=32))
    batch = next(b for k, b in enumerate(module.trainer.train_dataloader) if k == 2)
    moment = incident.Moment(2, batch, {}, int)
    incident.save(tmp_path / "2.pt", module.trainer, module, moment, incident.Finding(0, {}, [], {}))
    witness = benchmarks.replay.Witness()
    benchmarks.replay.run(benchmarks.replay.load(tmp_path / "2.pt"), witness, "cpu")
    assert witness.terms == keep.terms


def test_hyper_parameters_of_any_type_are_saved_plainly(tmp_path):
    import numpy as np

    value = {"path": tmp_path, "number": np.float32(0.5), "pair": (1, [None, True]), "type": torch.float32}
    torch.save(incident.plain(value), tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert loaded == {"path": str(tmp_path), "number": 0.5, "pair": (1, [None, True]), "type": "torch.float32"}


def test_replay_shows_finite_gradients_with_an_infinite_norm(tmp_path, capsys):
    text, _ = stopped(tmp_path, Watchdog(), module=unit(lambda_recon=1e36), data=Poisoned(7, size=32))
    assert "not finite  no logged term" in text
    benchmarks.replay.main([str(tmp_path / "replay" / "0.pt"), "--accelerator", "cpu"])
    out = capsys.readouterr().out
    norms = {line.split()[0]: line.endswith("NOT FINITE") for line in out.splitlines() if "coders" in line}
    assert norms == {"encoders+decoders": True}
    assert "gradient     none" in out


def test_no_file_to_replay():
    with pytest.raises(FileNotFoundError, match="give the file that the watchdog named"):
        benchmarks.replay.main(["nowhere.pt"])


# Symptoms


class Same(Toy):
    """Makes one image of everything from iteration 4 on; styles never change anything."""

    style_spec = LatentSpec(4)

    def translate(self, x, source, target, style=None):
        assert style is not None
        y = super().translate(x, source, target)
        return y if self.trainer.global_step < 4 else y * 0.001


def test_collapse_is_warned_of_once_after_two_looks_without_any_validation(tmp_path, capsys):
    toy_trainer(tmp_path, [Watchdog(images=4, look=2)], max_steps=12, limit_val_batches=0).fit(Same(), ToyData())
    kinds = {line["kind"]: line["iteration"] for line in warnings_of(tmp_path)}
    assert kinds == {"style_collapse": 4, "collapse": 6}
    assert len(warnings_of(tmp_path)) == 2
    assert "nearly one and the same image" in capsys.readouterr().out


class Faint(Same):
    """Styles move the image by a share of what real images differ by: about 1.7 times ``strength``."""

    strength = 0.0

    def translate(self, x, source, target, style=None):
        return Toy.translate(self, x, source, target) + self.strength * style[:, :1, None, None]


@pytest.mark.parametrize(("strength", "kinds"), [(0.01, ["style_collapse"]), (0.06, [])])
def test_styles_need_not_be_quite_without_effect(tmp_path, strength, kinds):
    module = Faint()
    module.strength = strength
    toy_trainer(tmp_path, [Watchdog(images=4, look=2)], max_steps=6, limit_val_batches=0).fit(module, ToyData())
    assert [line["kind"] for line in warnings_of(tmp_path)] == kinds


def test_no_look_has_fewer_images_than_asked_for(tmp_path):
    toy_trainer(tmp_path, [Watchdog(images=7, look=1)], max_steps=4, limit_val_batches=0).fit(Same(), ToyData())
    assert warnings_of(tmp_path) == []  # iteration 4 is the first with a look


def test_two_looks_may_be_those_before_and_after_a_resume(tmp_path):
    path, seen = None, []
    for steps in (4, 6):
        trainer = toy_trainer(tmp_path, [Watchdog(images=4, look=2)], max_steps=steps, limit_val_batches=0)
        trainer.fit(Same(), ToyData(), ckpt_path=path)
        path = tmp_path / f"{steps}.ckpt"
        trainer.save_checkpoint(path)
        torch.load(path, weights_only=True)
        seen.append({line["kind"]: line["iteration"] for line in warnings_of(tmp_path)})
    assert seen == [{"style_collapse": 4}, {"style_collapse": 4, "collapse": 6}]


@pytest.mark.parametrize("build", [unit, munit, drit])
def test_looks_change_nothing_in_training(tmp_path, build):
    """Weights, averages, moments and modes are those of a run without the watchdog."""
    found = []
    for callbacks in ([], [Watchdog(images=2, look=1)]):
        torch.manual_seed(0)
        module = build(ema=0.9)
        module.discriminators.eval()  # a part that stays as it is
        trainer = toy_trainer(tmp_path, callbacks, max_steps=4)
        trainer.fit(module, Batches(CASES[0], 4, 2))
        optimizers = [state for opt in trainer.optimizers for each in opt.state.values() for state in each.values()]
        found.append(([*module.state_dict().items()], optimizers, [part.training for part in module.modules()]))
    (plain, moments, modes), (watched, others, after) = found
    assert modes == after
    assert all(name == other and torch.equal(x, y) for (name, x), (other, y) in zip(plain, watched, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(moments, others, strict=True))


def test_looks_draw_nothing_from_the_global_generators(tmp_path):
    losses = []
    for callbacks in ([], [Watchdog(images=2, look=1)]):
        pl.seed_everything(1)
        module = Toy(noisy=True)
        toy_trainer(tmp_path, callbacks, max_steps=6, limit_val_batches=0).fit(module, ToyData())
        losses.append(module.losses)
    assert losses[0] == losses[1]


def test_a_model_is_inspected_in_the_weights_that_it_trains():
    module = unit(ema=0.9)
    module.discriminators.eval()
    average, modes = module.averaged, [part.training for part in module.modules()]
    with inspected(module):
        assert module.averaged is None
        assert not any(part.training for part in module.modules())
    assert module.averaged is average
    assert [part.training for part in module.modules()] == modes


def test_the_last_images_are_the_newest_ones_of_the_latest_size():
    recent = Recent(3)
    batches = [torch.full((2, 3, 4, 4), float(k)) for k in range(3)]
    for batch in batches:
        recent.add(batch)
    assert recent.full
    assert recent.images()[:, 0, 0, 0].tolist() == [2, 2, 1]
    assert recent.images().shape == (3, 3, 4, 4)
    assert recent._parts[0].data_ptr() == batches[2].data_ptr()  # no copy
    recent.add(torch.zeros(2, 3, 8, 8))
    assert not recent.full
    recent.add(torch.ones(5, 3, 8, 8))
    assert recent.images().shape == (3, 3, 8, 8)


class Counts(Same):
    calls = 0

    def translate(self, x, source, target, style=None):
        self.calls += 1
        return super().translate(x, source, target, style)


def _look(rank, world, folder):
    module = Counts()
    options = {"max_steps": 6, "limit_val_batches": 0} | ddp_options(world)
    toy_trainer(folder, [Watchdog(images=4, look=2)], **options).fit(module, ToyData())
    return module.calls, float(module.scale.detach())


@pytest.mark.ddp
def test_only_the_first_rank_looks(tmp_path):
    (calls, scale), (none, other) = run_ddp(_look, tmp_path)
    assert (calls, none, scale) == (12, 0, other)
    assert {line["kind"] for line in warnings_of(tmp_path)} == {"style_collapse", "collapse"}


class Scripted(Toy):
    """Logs curves: the discriminator's falls to nothing, two of three latents die."""

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        sick = self.trainer.global_step > 4
        self.log_terms("d", {"a": torch.tensor(0.001 if sick else 2.0), "b": torch.tensor(1.0)})
        self.log_terms("g", {"adv": torch.tensor(2.0)})
        self.kl = torch.tensor([0.0, 0.0, 1.0] if sick else [1.0, 1.0, 1.0])

    def kl_per_dim(self):
        return self.kl


def test_saturation_and_dead_latents_are_read_from_the_module(tmp_path):
    toy_trainer(tmp_path, [Watchdog(every=1)], max_steps=20, limit_val_batches=0).fit(Scripted(), ToyData())
    lines = warnings_of(tmp_path)
    assert [(line["kind"], line["iteration"]) for line in lines] == [("saturation", 13), ("dead_latents", 13)]
    assert "d/a stayed" in lines[0]["message"]
    assert "2 of 3 latent dimensions carry nothing (0, 1)" in lines[1]["message"]


def test_a_resumed_run_neither_repeats_itself_nor_forgets_the_start(tmp_path):
    path, warned = None, []
    for steps in (8, 24, 40):  # the first ends before the warning, the second is sick from its start on
        trainer = toy_trainer(tmp_path, [Watchdog(every=1)], max_steps=steps, limit_val_batches=0)
        trainer.fit(Scripted(), ToyData(), ckpt_path=path)
        path = tmp_path / f"{steps}.ckpt"
        trainer.save_checkpoint(path)
        torch.load(path, weights_only=True)
        warned.append([(line["kind"], line["iteration"]) for line in warnings_of(tmp_path)])
    once = [("saturation", 13), ("dead_latents", 13)]  # as in a run that nobody stopped
    assert warned == [[], once, once]


def test_a_checkpoint_of_an_older_watchdog_is_taken():
    watchdog = Watchdog()
    watchdog.load_state_dict({"warned": ["collapse"], "starts": {"d/a": [1.0]}})
    state = watchdog.state_dict()
    assert (state["warned"], state["starts"], state["last"]) == (["collapse"], {"d/a": [1.0]}, {})


class FakeWandb(WandbLogger):
    def __init__(self, offline):
        self.alerts = []
        self.run = SimpleNamespace(offline=offline, disabled=False, alert=lambda **words: self.alerts.append(words))

    @property
    def experiment(self):
        return self.run


@pytest.mark.parametrize("offline", [False, True])
def test_an_alert_goes_to_a_run_that_is_online(tmp_path, offline):
    logger = FakeWandb(offline)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[logger], default_root_dir=tmp_path)
    Watchdog()._warn(trainer, 7, "collapse", "All alike.")
    assert logger.alerts == ([] if offline else [{"title": "collapse in iteration 7", "text": "All alike."}])


def test_impossible_arguments():
    with pytest.raises(ValueError, match="every >= 1"):
        Watchdog(every=0)
    with pytest.raises(ValueError, match="look >= 1, not 10, 0, 8, 0"):
        Watchdog(look=0)
