import os
import signal

import pytest
import torch

from callbacks.checkpoint_io import AtomicIO
from callbacks.preempt import Preempt
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp


class Signalled(Toy):
    """Gets a signal in the middle of iteration 3, on one rank."""

    def __init__(self, number, rank=0):
        super().__init__()
        self.number, self.target = number, rank

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 2 and self.global_rank == self.target:
            os.kill(os.getpid(), self.number)
        super().training_step(batch, batch_idx)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_after_the_batch_with_a_checkpoint_and_code_143(tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        toy_trainer(tmp_path, [Preempt()], max_steps=10, plugins=[AtomicIO()]).fit(Signalled(number), ToyData())
    assert end.value.code == 143
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 3
    assert signal.getsignal(number) == before


def test_signals_are_given_back_after_a_quiet_run(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    toy_trainer(tmp_path, [Preempt()]).fit(Toy(), ToyData())
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "checkpoints").exists()


def _fit(rank, world, folder):
    try:
        toy_trainer(folder, [Preempt()], max_steps=10, **ddp_options(world)).fit(
            Signalled(signal.SIGTERM, rank=1), ToyData()
        )
    except SystemExit as end:
        return end.code
    return "not stopped"


@pytest.mark.ddp
def test_a_signal_to_rank_1_stops_both(tmp_path):
    assert run_ddp(_fit, tmp_path) == [143, 143]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 3
