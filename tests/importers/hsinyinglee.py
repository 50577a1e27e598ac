"""What the tests of DRIT's and MDMM's official containers share: shapes of layers, random files, what must be equal."""

from collections import OrderedDict

import pytorch_lightning as pl
import torch


def conv(name, o, i, k):
    return {f"{name}.weight": (o, i, k, k), f"{name}.bias": (o,)}


def linear(name, o, i):
    return {f"{name}.weight": (o, i), f"{name}.bias": (o,)}


def residual(name, c):
    return conv(f"{name}.model.1", c, c, 3) | conv(f"{name}.model.5", c, c, 3)


def up(name, i, o):
    """A transposed convolution, whose weight has inputs first, and a layer norm."""
    return {f"{name}.model.0.weight": (i, o, 3, 3), f"{name}.model.0.bias": (o,)} | {
        f"{name}.model.1.{part}": (o, 1, 1) for part in ("weight", "bias")
    }


def head(name, i):
    return {f"{name}.weight": (i, 3, 1, 1), f"{name}.bias": (3,)}


def gaussian_attribute_encoder(ending, channels, w, z):
    """With concat."""
    shapes = linear(f"fc{ending}.0", z, 4 * w) | linear(f"fcVar{ending}.0", z, 4 * w)
    shapes |= conv(f"conv{ending}.1", w, channels, 4)
    for j in (1, 2, 3):
        block, i, o = f"conv{ending}.{j + 1}", j * w, (j + 1) * w
        shapes |= conv(f"{block}.conv.2", i, i, 3) | conv(f"{block}.conv.4.1", o, i, 3)
        shapes |= conv(f"{block}.shortcut.1", o, i, 1)
    return shapes


def attribute_encoder(ending, channels, w, z):
    """Without concat."""
    shapes, widths = {}, (channels, w, 2 * w, 4 * w, 4 * w, 4 * w)
    for j, (i, o) in enumerate(zip(widths, widths[1:], strict=False)):
        shapes |= conv(f"model{ending}.{3 * j + 1}", o, i, 4 if j else 7)
    return shapes | conv(f"model{ending}.16", z, 4 * w, 1)


def mixing_block(name, c):
    shapes = conv(f"{name}.conv1.0.1", c, c, 3) | conv(f"{name}.conv2.0.1", c, c, 3)
    for i in (1, 2):
        shapes |= conv(f"{name}.blk{i}.0", 2 * c, 2 * c, 1) | conv(f"{name}.blk{i}.2", c, 2 * c, 1)
    return shapes


def content_discriminator(c, scores):
    shapes = {name: s for j in (0, 1, 2) for name, s in conv(f"model.{j}.model.1", 6, 6 if j else c, 7).items()}
    return shapes | conv("model.3.model.1", 6, 6, 4) | conv("model.4", scores, 6, 1)


def random_container(layout, idle=()):
    """A file with networks of these shapes, whose optimizers have stepped once, but for those of the idle."""
    torch.manual_seed(3)
    release = {
        net: OrderedDict((name, 0.1 * torch.randn(shape)) for name, shape in shapes.items())
        for net, shapes in layout.items()
    }
    for net in layout:
        lr = 4e-5 if net == "disContent" else 1e-4
        parameters = [torch.nn.Parameter(t.clone()) for t in release[net].values()]
        opt = torch.optim.Adam(parameters, lr, betas=(0.5, 0.999), weight_decay=1e-4)
        for p in parameters:
            p.grad = torch.randn_like(p)
        if net not in idle:
            opt.step()
        release[f"{net}_opt"] = opt.state_dict()
        release[f"{net}_opt"]["param_groups"][0]["initial_lr"] = lr
    return release | {"ep": 37, "total_it": 4}


def assert_equal_files(one, other, nets):
    before, after = torch.load(one, weights_only=True), torch.load(other, weights_only=True)
    assert list(before) == list(after)
    for net in nets:
        assert list(before[net]) == list(after[net])
        assert all(torch.equal(before[net][name], after[net][name]) for name in before[net])
        theirs, ours = before[f"{net}_opt"], after[f"{net}_opt"]
        assert theirs["param_groups"] == ours["param_groups"]
        assert list(theirs["state"]) == list(ours["state"])
        for k, state in theirs["state"].items():
            assert all(torch.equal(state[name], ours["state"][k][name]) for name in state)
    assert (after["ep"], after["total_it"]) == (37, 4)


def trainer_of_three_more(folder):
    """Trains iterations 12 to 14, which follow the four full updates of the file."""
    return pl.Trainer(
        max_steps=15, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
