"""Two loggers: a CSV file that survives kills and resumes, and W&B that never asks and never hangs."""

import csv
import os
import secrets
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from callbacks.media import shown
from metrics.better import better_end

# W&B's own error reports look for its server even where a run is offline.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


class CSV(Logger):
    """Appends every logged row to ``<save_dir>/metrics.csv``, and to ``metrics_test.csv`` etc. outside ``fit``.

    A row is on the disk when ``log_metrics`` returns, so a kill loses nothing; columns grow as keys appear.
    A resumed ``fit`` first drops the rows from its own first step on, which the killed run wrote after its
    last checkpoint. Evaluations have files of their own because their step says nothing about training.

    Lightning hands over floats: it reads them from the device in logging steps only.

    Args:
        save_dir: the run folder.
    """

    def __init__(self, save_dir: str | os.PathLike[str] = ".") -> None:
        super().__init__()
        self._folder, self._stage = Path(save_dir), "fit"
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        """Empty: the run folder is the whole address."""
        return ""

    @property
    def version(self) -> str:
        """Empty: the run folder is the whole address."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._folder)

    @property
    def path(self) -> Path:
        """The file that rows go to now."""
        return self._folder / ("metrics.csv" if self._stage == "fit" else f"metrics_{self._stage}.csv")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is kept as a file of its own."""

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Lightning calls this once at the start of ``fit``, ``validate`` and ``test``: learn which it is."""
        self._stage, self._columns = str(model.trainer.state.fn.value), []

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row.

        Args:
            metrics: numbers by key; a key not seen before becomes a column.
            step: position on the x-axis.
        """
        row = {"step": str(step or 0)} | {key: _text(value) for key, value in metrics.items()}
        if not self._columns:
            self._open(step or 0)
        new = [key for key in row if key not in self._columns]
        if new:
            self._columns += new
            self._rewrite(_read(self.path))
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(row)

    def _open(self, first_step: int) -> None:
        rows = _read(self.path)
        self._columns = list(rows[0]) if rows else []
        if self._stage == "fit":
            rows = [row for row in rows if int(row["step"]) < first_step]
        self._rewrite(rows)

    def _rewrite(self, rows: Iterable[dict[str, str]]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)


def _read(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics file; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def _text(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


class WandB(WandbLogger):
    """W&B, offline unless the user is logged in.

    It never asks for a key. With a key but without an answer from the server it goes on offline after
    ``init_timeout`` seconds. ``WANDB_MODE`` is respected. The run id is kept in ``<save_dir>/wandb_id.txt``, so a
    resumed run continues its curves. Only rank 0 makes a run, and only when something is first logged.

    The command line fills in what a configuration gives as null: the group is the experiment, the tags are the
    classes of model and data, and the job type is the command.

    Args:
        save_dir: the run folder; files go to ``<save_dir>/wandb``.
        project: W&B project.
        name: of the run; by default the last two parts of ``save_dir``.
        entity: user or team; None is the user's default.
        group: under which W&B lists the run.
        tags: of the run.
        job_type: what the run does, such as ``fit``.
        init_timeout: seconds to wait for the server at the start.
        media_mb: most that the pictures of a run may take in W&B, in 10^6 bytes, resumed parts and evaluations
            included. Further pictures are on the disk only.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str] = ".",
        project: str = "crossfade",
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        job_type: str | None = None,
        init_timeout: float = 15.0,
        media_mb: float = 200.0,
    ) -> None:
        folder = Path(save_dir)
        name = name or "/".join(folder.absolute().parts[-2:])
        super().__init__(
            name=name, save_dir=folder, project=project, entity=entity, group=group, tags=tags, job_type=job_type
        )
        self._init_timeout, self._media_mb, self._media_used_up = init_timeout, media_mb, False
        self._defined: set[str] = set()
        self._wandb_init.pop("anonymous")  # wandb warns of it, whatever its value

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at the first use."""
        if self._experiment is None:
            self._start()
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log; the run's summary keeps the best and the last value of what has a better end."""
        for key in metrics:
            if key not in self._defined and key.startswith(("val/", "test/")):
                self._defined.add(key)
                better = better_end(key.split("/")[1])
                if better:
                    summary = "max,last" if better == "higher" else "min,last"
                    self.experiment.define_metric(key, step_metric="trainer/global_step", summary=summary)
        super().log_metrics(metrics, step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Show pictures, as JPEG, until the budget is used up; then say so once.

        Args:
            key: such as ``media/translations``.
            images: (H, W, 3) uint8 each.
            step: position on the x-axis.
            kwargs: lists as long as ``images``, such as ``caption``, for ``wandb.Image``.
        """
        if self._media_used_up or self.experiment.disabled:
            return
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{k}.jpg" for k in range(len(images))]
            for path, image in zip(paths, images, strict=True):
                Image.fromarray(image).save(path, quality=90)
            if self._has_room(paths):
                super().log_image(key, list(map(str, paths)), step, **kwargs)

    @rank_zero_only
    def log_video(self, key: str, videos: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Show GIF files, within the same budget.

        Args:
            key: such as ``media/traversal_video``.
            videos: paths.
            step: position on the x-axis.
            kwargs: lists as long as ``videos``, such as ``caption``, for ``wandb.Video``.
        """
        if not (self._media_used_up or self.experiment.disabled) and self._has_room(list(map(Path, videos))):
            super().log_video(key, list(map(str, videos)), step, **kwargs)

    def _has_room(self, files: list[Path]) -> bool:
        """Whether files fit into what is left of the budget; says so once if they do not."""
        new = sum(file.stat().st_size for file in files)
        self._media_used_up = self._media_bytes() + new > self._media_mb * 1e6
        if self._media_used_up:
            text = f"W&B has its {self._media_mb:g} MB of pictures of this run; further ones are on the disk only."
            print(text, flush=True)
        return not self._media_used_up

    def _media_bytes(self) -> int:
        """What W&B has had, read off its folders, which a resumed run and an evaluation find as well."""
        kinds = ("images/**/*.jpg", "videos/**/*.gif")
        files = [
            file for kind in kinds for file in Path(self._save_dir or ".").glob(f"wandb/*run-*/files/media/{kind}")
        ]
        return sum(file.stat().st_size for file in files)

    def where(self) -> str | None:
        """Where to find the run: its URL, or the command that uploads it; None if no run was started here."""
        run = self._experiment
        if run is None or run.disabled:
            return None
        if run.offline:
            return f"wandb sync {shown(Path(run.dir).parent)}"
        return run.url

    def _start(self) -> None:
        import wandb

        folder = Path(self._save_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)  # wandb would silently write to a temporary folder instead
        settings = wandb.Settings(init_timeout=self._init_timeout, silent=True, console="off")
        self._wandb_init.update(id=_kept_id(folder), dir=str(folder), settings=settings)
        mode = os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not _logged_in():
            mode = "offline"
        self._wandb_init.update(mode=mode, resume="allow" if mode == "online" else None)
        try:
            _ = super().experiment
        except wandb.Error as error:
            if mode != "online":
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"W&B does not answer ({reason}); this run is logged offline.", flush=True)
            wandb.teardown()  # the failed run would otherwise still own its id
            self._wandb_init.update(mode="offline", resume=None)
            _ = super().experiment


def _logged_in() -> bool:
    """Whether W&B would find a key without asking: in the environment, or stored by ``wandb login``."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        print(f"W&B cannot use the key it found ({error}); this run is logged offline.", flush=True)
        return False


def _kept_id(folder: Path) -> str:
    """The id of the run in this folder, made up and written down if it has none."""
    file = folder / "wandb_id.txt"
    if not file.exists():
        temporary = file.with_suffix(".tmp")
        temporary.write_text(secrets.token_hex(4))  # not from the random state of the training
        os.replace(temporary, file)
    return file.read_text().strip()
