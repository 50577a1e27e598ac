"""Runs a function on several gloo processes of this machine and brings back what each returned."""

import os
import pickle
import shutil
import tempfile
import time
import traceback

import torch.multiprocessing
from torch.distributed import TCPStore


def run_ddp(fn, *args, world=2, timeout=240):
    """``[fn(rank, world, *args) for rank in range(world)]``, each in its own process.

    ``fn`` must be a top-level function of an importable module. Lightning in the processes believes that
    torchrun started it. A rank that fails or hangs is reported with the tracebacks of all ranks and never
    blocks. The processes are forked from a server that has imported the libraries and run nothing, so that
    each starts at once; it was started by the first test, so the environment of this one goes with the call.
    """
    # The parent hosts the store on a port of the system's choice, so no two tests race for one.
    store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchmetrics", "pytorch_lightning.cli", "wandb"])
    out = tempfile.mkdtemp()
    try:
        processes = [
            context.Process(target=_child, args=(dict(os.environ), rank, world, store.port, out, fn, args), daemon=True)
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        hung = _wait(processes, time.monotonic() + timeout)
        return _collect(out, world, hung)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _child(environment, rank, world, port, out, fn, args):
    os.environ.clear()
    os.environ.update(
        environment,
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="t",
        TORCHELASTIC_USE_AGENT_STORE="True",
        GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
    )
    import torch

    torch.set_num_threads(1)
    try:
        result = (fn(rank, world, *args), None)
    except BaseException:
        result = (None, traceback.format_exc())
    with open(f"{out}/{rank}.tmp", "wb") as file:
        pickle.dump(result, file)
    os.replace(f"{out}/{rank}.tmp", f"{out}/{rank}")
    os._exit(0 if result[1] is None else 1)  # skips atexit and the destruction of the group, which can hang


def _wait(processes, end):
    """Wait for all, or until one fails or time is up; kill what is left and return its ranks."""
    while any(p.is_alive() for p in processes) and time.monotonic() < end and not any(p.exitcode for p in processes):
        time.sleep(0.02)
    if any(p.exitcode for p in processes):
        for process in processes:
            process.join(2)
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for rank in hung:
        processes[rank].kill()
    for process in processes:
        process.join()
    return hung


def _collect(out, world, hung):
    results, errors = [], [f"rank {rank} hung" for rank in hung]
    for rank in range(world):
        try:
            with open(f"{out}/{rank}", "rb") as file:
                value, error = pickle.load(file)
        except FileNotFoundError:
            value, error = None, None if rank in hung else "ended without a result"
        if error:
            errors.append(f"rank {rank}: {error}")
        results.append(value)
    if errors:
        raise RuntimeError("\n".join(errors))
    return results
