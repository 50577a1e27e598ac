"""Entry point: ``python main.py {fit,validate,test,predict} --config experiments/unit_streets.yaml [--key value ...]``.

LightningCLI with three additions. An experiment inherits one level of bases (``inherit: [trainer, translation]``
reads ``_base/trainer.yaml`` and ``_base/translation.yaml`` beside it first). Each run has a folder of its own,
``runs/<experiment>/<time>``, which holds everything that it leaves. A key that does not exist is answered with the
nearest one that does.
"""

import difflib
import importlib
import linecache
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities import rank_zero_only

from lightning_modules.base import ManualModule
from plan import plan

RUNS = Path("runs")
KEPT = ("last", "best")  # checkpoints of a run that go by their name
ROOT = Path(__file__).resolve().parent


def main(args: list[str] | None = None) -> "Command":
    """Parse, build, run; returns the command, whose trainer and model tests look at."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")  # with_bases has to change them
    return Command(
        ManualModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveRunConfig,
        parser_class=HelpfulParser,
        parser_kwargs={"allow_abbrev": False},
        auto_configure_optimizers=False,
        seed_everything_default=0,
        args=with_bases(sys.argv[1:] if args is None else args),
    )


class Command(LightningCLI):
    """The CLI of every experiment."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to a run rather than to a class."""
        parser.add_argument("--inherit", type=list[str], default=[], help="bases of this experiment, read by main.py")
        parser.add_argument("--run_dir", type=str | None, default=None, help="folder of the run; default runs/EXP/TIME")
        parser.add_argument("--print", action="store_true", help="say what fit would train, and in what memory; stop")

    def before_instantiate_classes(self) -> None:
        """Choose the run folder, tell it to the trainer, its loggers and its checkpoints, and label the run."""
        config = self.config[self.subcommand]
        if config.print and self.subcommand != "fit":
            sys.exit(f"--print says what fit would train: leave it out of {self.subcommand}.")
        experiment = experiment_name(config.get("config"))
        if config.run_dir is None:
            resumed = newest_run(experiment, config.ckpt_path) if config.ckpt_path in KEPT else None
            config.run_dir = str(resumed or RUNS / experiment / time.strftime("%Y%m%d-%H%M%S"))
        if config.ckpt_path in KEPT:
            config.ckpt_path = str(checkpoint_of(Path(config.run_dir), config.ckpt_path))
        if "verbose" in config:
            config.verbose = False  # callbacks print what they measure, and metrics_<stage>.csv keeps it
        config.trainer.callbacks = without_repeats(config.trainer.callbacks)
        name_after_data(config.model, config.data)
        config.inherit = []  # the run keeps its whole configuration, which needs no bases any more
        config.trainer.default_root_dir = config.run_dir
        known = {"save_dir": config.run_dir, "dirpath": os.path.join(config.run_dir, "checkpoints")}
        classes = [part.class_path.rpartition(".")[2] for part in (config.model, config.data)]
        known |= {"group": experiment, "tags": classes, "job_type": self.subcommand}
        for part in [*as_list(config.trainer.logger), *as_list(config.trainer.callbacks)]:
            for key, value in known.items():
                if key in part.get("init_args", {}) and (part.init_args[key] is None or key == "job_type"):
                    part.init_args[key] = value  # the job type of a kept configuration says what was done then

    def fit(self, model: ManualModule, **options: Any) -> None:
        """Train; with ``--print`` only say what would be trained."""
        if self.config["fit"].print:
            rank_zero_only(lambda: print(plan(self.trainer, model, self.datamodule, options.get("ckpt_path"))))()
        else:
            self.trainer.fit(model, **options)

    def _parse_ckpt_path(self) -> None:
        """Let the configuration rule a resumed ``fit``; elsewhere the checkpoint says which model it holds."""
        if self.config["subcommand"] != "fit":
            super()._parse_ckpt_path()


class HelpfulParser(LightningArgumentParser):
    """Answers an unknown name with the nearest one that exists, and a missing one with the option that gives it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one sentence (and, where a name is unknown, the parser's own words) and exit with 2."""
        super().error(missing_name(message) or message + nearest_names(message, self), ex)


class SaveRunConfig(SaveConfigCallback):
    """Keeps the configuration as it ran, ``config.yaml``, in the folder of a training run."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write on the first process only."""
        if trainer.is_global_zero and stage == "fit":
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, folder / "config.yaml", overwrite=True, multifile=False)


def with_bases(args: list[str]) -> list[str]:
    """Put the bases that each ``--config`` file inherits before it; later files win."""
    expanded: list[str] = []
    for arg in args:
        if expanded and expanded[-1] in ("--config", "-c"):
            for base in bases_of(Path(arg)):
                expanded += [str(base), "--config"]
        elif arg.startswith("--config="):
            for base in bases_of(Path(arg.partition("=")[2])):
                expanded += ["--config", str(base)]
        expanded.append(arg)
    return expanded


def bases_of(path: Path) -> list[Path]:
    """Files named by ``inherit`` in an experiment. Bases may not inherit: one level, so a value is quickly found."""
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.stem, known, n=1)
        sys.exit(
            f"No experiment {path}." + (f" Did you mean {near[0]}?" if near else f" There are: {', '.join(known)}.")
        )
    names = (yaml.safe_load(path.read_text()) or {}).get("inherit") or []
    bases = [path.parent / "_base" / f"{name}.yaml" for name in names]
    for base in bases:
        if not base.is_file():
            sys.exit(f"{path} inherits {base.stem}, but there is no {base}.")
        if "inherit" in (yaml.safe_load(base.read_text()) or {}):
            sys.exit(f"{base} may not inherit: it is a base.")
    return bases


def experiment_name(configs: list[Any] | None) -> str:
    """The name of the last configuration file that is no part of others (their folders begin with ``_``).

    For a run's own ``config.yaml`` it is that of its experiment.
    """
    paths = [path for path in map(Path, map(str, configs or [])) if not path.parent.name.startswith("_")]
    if not paths:
        return "run"
    path = paths[-1]
    return path.parent.parent.name if path.name == "config.yaml" else path.stem


def newest_run(experiment: str, kept: str) -> Path:
    """The latest run of an experiment that has the checkpoint ``last`` or ``best``."""
    runs = sorted(p.parents[1] for p in (RUNS / experiment).glob(f"*/checkpoints/{kept}.ckpt"))
    if not runs:
        cure = {"last": "leave --ckpt_path out", "best": "callbacks.checkpoint_io.BestCheckpoint keeps one"}[kept]
        sys.exit(f"--ckpt_path {kept}: no run in {RUNS / experiment} has checkpoints/{kept}.ckpt; {cure}.")
    return runs[-1]


def checkpoint_of(run: Path, kept: str) -> Path:
    """``last.ckpt`` or ``best.ckpt`` of a run."""
    path = run / "checkpoints" / f"{kept}.ckpt"
    if not path.is_file():
        sys.exit(f"--ckpt_path {kept}: there is no {path}.")
    return path


def as_list(value: Any) -> list[Any]:
    """Loggers and callbacks of a configuration: none, one or several, each with a class path."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if hasattr(v, "class_path")]


def name_after_data(model: Any, data: Any) -> None:
    """Give a model of any number of domains, or attributes, those of the data, where its configuration has none."""
    for what in ("domains", "attributes"):
        if what in model.get("init_args", {}) and not model.init_args[what]:
            module, _, name = data.class_path.rpartition(".")
            found = getattr(getattr(importlib.import_module(module), name)(**data.init_args.as_dict()), what, None)
            if not found:
                raise ValueError(f"{data.class_path} has no {what}, whose names the model needs: choose other data.")
            model.init_args[what] = tuple(found)


def without_repeats(callbacks: Any) -> Any:
    """What an experiment measures in training and an evaluation lists again, with the same arguments, counts once.

    The first stays. ``every`` may differ, since it says how often a fit measures and not how, and so may ``counts``,
    how much is looked at outside a fit: the last is taken.
    """
    if not isinstance(callbacks, list):
        return callbacks
    alike = [each.clone() if hasattr(each, "class_path") else each for each in callbacks]
    counts = [each.pop("init_args.counts", None) if hasattr(each, "class_path") else None for each in alike]
    for each in as_list(alike):
        each.pop("init_args.every", None)
    kept = [each for k, each in enumerate(callbacks) if alike[k] not in alike[:k]]
    for k, told in enumerate(counts):
        if told is not None:
            callbacks[alike.index(alike[k])].init_args.counts = told
    return kept


def nearest_names(message: str, parser: LightningArgumentParser) -> str:
    """' Did you mean ...?' for the first unknown name in a parser's message, or nothing."""
    parsers = [
        parser,
        *(p for p in (parser._subcommands_action.choices.values() if parser._subcommands_action else ())),
    ]
    known = {key.removeprefix("--") for each in parsers for key in each._option_string_actions}
    for name in re.findall(r"(?:--|')([a-zA-Z_][\w.]*)", message):
        near = difflib.get_close_matches(name, known - {name}, n=1, cutoff=0.75)
        if name not in known and near:
            return f"\nDid you mean {near[0]}?"
    return ""


def missing_name(message: str) -> str:
    """What a class of the configuration lacks and how it is given, of a parser's message; or nothing."""
    found = re.search(
        r'key "(\w+)".*class_path \'([\w.]+)\':\s*the following arguments are required: ([\w, ]+)', message, re.DOTALL
    )
    if found is None:
        return ""
    part, class_path, names = found.groups()
    options = " and ".join(f"--{part}.{name}" for name in names.split(", "))
    return f"{class_path} has no value for {names}: give {options}."


def said_by_us(error: BaseException) -> bool:
    """Whether one of our own ``raise`` statements made this error: its sentence is all that a user needs."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
    ours = Path(file).is_relative_to(ROOT) and "site-packages" not in file
    return ours and linecache.getline(file, line).lstrip().startswith("raise ")


def sentence_of(error: BaseException | None) -> str | None:
    """What of an error is for the user: our own words, which the parser hides below its own where it builds a class."""
    while error is not None and not said_by_us(error):
        error = error.__cause__
    return None if error is None else str(error)


def entry() -> None:
    """``main`` for the command line: what a user can mend ends in its sentence, what is a bug in its traceback."""
    try:
        main()
    except (OSError, TypeError, ValueError) as error:
        sentence = sentence_of(error)
        if sentence is None or os.environ.get("CROSSFADE_TRACEBACK"):
            raise
        sys.exit(f"\nerror: {sentence}\n(CROSSFADE_TRACEBACK=1 shows where it was raised.)")


if __name__ == "__main__":
    entry()
