"""Nothing needs the network after installation: training, validation and prediction with sockets that refuse."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
COMMANDS = """
import sys, main
for command in ("fit", "validate", "predict"):
    args = [command, *sys.argv[1:]] + ([] if command == "fit" else ["--ckpt_path", "last"])
    main.main(args + (["--return_predictions", "false"] if command == "predict" else []))
"""


def test_the_network_is_refused_here_and_in_children(no_network: Path) -> None:
    ask = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    child = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    assert "blocked: ('192.0.2.1', 80)" in child.stderr
    with pytest.raises(OSError, match="blocked"):
        socket.create_connection(("192.0.2.1", 80), timeout=5)
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("example.org", 80)
    asked = no_network.read_text().splitlines()
    mine = [line for line in asked if "test_the_network_is_refused" in line]
    assert len(mine) == 3
    no_network.write_text("".join(f"{line}\n" for line in asked if line not in mine))


def test_fit_validate_and_predict_without_a_network(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "CROSSFADE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    refused = tmp_path / "refused.txt"
    refused.touch()
    # Configurations are parsed in their own folder, where "" finds nothing.
    environment |= {"PYTHONPATH": f"{ROOT / 'tests' / 'offline'}{os.pathsep}{ROOT}", "CROSSFADE_REFUSED": str(refused)}
    arguments = (
        "--config experiments/unit_streets.yaml --trainer.accelerator cpu --trainer.max_steps 4 "
        "--trainer.val_check_interval 2 --model.width 4 --model.blocks 1 --model.shared_blocks 1 "
        "--model.dis_width 4 --model.dis_layers 2 "
        f"--model.dis_scales 1 --data.size 32 --data.scenes 8 --data.val_scenes 4 --run_dir {tmp_path / 'run'}"
    ).split()
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert refused.read_text() == ""
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
