"""Reads back what W&B wrote offline."""

import json
import struct
from pathlib import Path


def end_wandb():
    """End the run and the process that writes it: ``finish`` alone returns before the file is whole."""
    import wandb

    wandb.finish()
    wandb.teardown()


def records(path):
    """Every record of a ``.wandb`` file: LevelDB's log framing behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = Path(path).read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position < len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        chunk = data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind == 0 or len(chunk) < length:  # padding, or a torn end
            break
        parts = chunk if kind in (1, 2) else parts + chunk
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record


def history(path):
    """The logged rows as dictionaries, in order."""
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
    return rows
