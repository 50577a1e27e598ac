"""Nothing needs the network after installation: training, validation and prediction with sockets that refuse."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
BLOCKED = """
import ipaddress, socket, sys
connect, resolve = socket.socket.connect, socket.getaddrinfo

def refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not ipaddress.ip_address(address[0]).is_loopback:
        print("REFUSED", address, flush=True)
        raise OSError(f"blocked: {address}")
    return connect(self, address)

def unknown(host, *args, **kwargs):
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        print("REFUSED", host, flush=True)
        raise socket.gaierror(-2, "Name or service not known")
    return resolve(host, *args, **kwargs)

socket.socket.connect, socket.getaddrinfo = refuse, unknown
import main
for command in ("fit", "validate", "predict"):
    args = [command, *sys.argv[1:]] + ([] if command == "fit" else ["--ckpt_path", "last"])
    main.main(args + (["--return_predictions", "false"] if command == "predict" else []))
"""


def test_fit_validate_and_predict_without_a_network(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "CROSSFADE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)  # configurations are parsed in their own folder, where "" finds nothing
    arguments = (
        "--config experiments/unit_streets.yaml --trainer.accelerator cpu --trainer.max_steps 4 "
        "--trainer.val_check_interval 2 --model.width 4 --model.blocks 1 --model.shared_blocks 1 "
        "--model.dis_width 4 --model.dis_layers 2 "
        f"--model.dis_scales 1 --data.size 32 --data.scenes 8 --data.val_scenes 4 --run_dir {tmp_path / 'run'}"
    ).split()
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "REFUSED" not in done.stdout
    run = tmp_path / "run"
    assert (run / "config.yaml").is_file()
    assert (run / "metrics.csv").is_file()
    assert (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    )  # the end, not a multiple
    pictures = {path.stem for path in (run / "pictures" / "media" / "translations").glob("*.png")}
    assert pictures == {"0000002", "0000004", "validate"}
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    for direction in ("day2night", "night2day"):
        assert len(list((run / "predictions" / direction).glob("*.png"))) == 4
    for name in ("pictures", "metrics", "checkpoint", "W&B"):
        assert f"  {name}" in done.stdout
