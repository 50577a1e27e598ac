import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.information_plane import (
    Point,
    draw_plane,
    main,
    names_of,
    points_of_cards,
    read_points,
    table,
)


def config(beta=4.0, seed=0, size=64, kind="BetaVAE"):
    model = {"class_path": f"lightning_modules.x.{kind}", "init_args": {"beta": beta, "latent": 10}}
    return {"model": model, "data": {"class_path": "datamodules.y.Data", "init_args": {"size": size, "seed": seed}}}


def run(folder, point, tested=False, **settings):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(**settings)))
    rows = "step,train/vae/kl,val/rate,val/distortion\n9,1.0,,\n9,,99,99\n19,,{},{}\n".format(*point)
    (folder / "metrics.csv").write_text(rows)
    if tested:
        metrics = {key: {"value": value + 1} for key, value in zip(("rate", "distortion"), point, strict=True)}
        (folder / "evaluation.json").write_text(json.dumps({"metrics": metrics}))
    return folder


def runs(tmp_path, **options):
    points = {(1.0, 0): (20, 30), (1.0, 1): (22, 34), (8.0, 0): (8, 60)}
    return [
        run(tmp_path / f"{beta}-{seed}", point, beta=beta, seed=seed, **options)
        for (beta, seed), point in points.items()
    ]


def test_seeds_of_one_model_are_a_row_and_the_last_validation_counts(tmp_path):
    found = read_points(runs(tmp_path))
    assert found == {"BetaVAE, beta 1.0": [(20, 30), (22, 34)], "BetaVAE, beta 8.0": [(8, 60)]}
    assert read_points(runs(tmp_path / "tested", tested=True))["BetaVAE, beta 8.0"] == [(9, 61)]


def test_the_table_has_means_spreads_and_the_bound(tmp_path):
    lines = table(read_points(runs(tmp_path))).splitlines()
    # Deviations with n - 1: of 20 and 22, of 30 and 34, of -50 and -56.
    assert lines[2] == "| BetaVAE, beta 1.0 | 21.00 ± 1.41 | 32.00 ± 2.83 | -53.00 ± 4.24 | 2 |"
    assert lines[3] == "| BetaVAE, beta 8.0 | 8.00 | 60.00 | -68.00 | 1 |"


def test_a_name_tells_what_sets_a_model_apart():
    models = [config(beta=1)["model"], config(beta=2)["model"], config(beta=2, kind="DIPVAE")["model"]]
    assert names_of(models) == ["BetaVAE, beta 1", "BetaVAE, beta 2", "DIPVAE, beta 2"]
    assert names_of(models[:1] * 2) == ["BetaVAE", "BetaVAE"]
    more = models[1] | {"dict_kwargs": {"gamma": 3}}
    assert names_of([models[1], more]) == ["BetaVAE", "BetaVAE, gamma 3"]


def test_cards_of_evidence_give_points_and_rows_without_are_left_out():
    card = {"metrics": {"rate": {"value": 1.5}, "distortion": {"value": 2}, "disentanglement/mig": {"value": 0.1}}}
    assert points_of_cards({"a": [card, card], "b": [{"metrics": {}}]}) == {"a": [Point(1.5, 2.0)] * 2}


def test_runs_that_do_not_compare_or_tell_nothing_are_refused(tmp_path):
    one, other = run(tmp_path / "a", (1, 2)), run(tmp_path / "b", (1, 2), size=32)
    with pytest.raises(ValueError, match=r"b has other data than .*a, so they do not compare"):
        read_points([one, other])
    with pytest.raises(ValueError, match=r"c was tested and .*a was not, so they do not compare"):
        read_points([one, run(tmp_path / "c", (1, 2), tested=True)])
    with pytest.raises(FileNotFoundError, match=r"no .*config\.yaml: give the folders of trained runs"):
        read_points([tmp_path])
    (one / "metrics.csv").write_text("step,train/vae/kl\n1,2\n")
    with pytest.raises(ValueError, match=r"metrics\.csv has no val/rate and val/distortion"):
        read_points([one])
    (one / "metrics.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither .*evaluation\.json nor .*metrics\.csv"):
        read_points([one])
    (one / "evaluation.json").write_text('{"metrics": {}}')
    with pytest.raises(ValueError, match=r"evaluation\.json has no rate and distortion"):
        read_points([one])
    (one / "config.yaml").write_text("model: 3")
    with pytest.raises(ValueError, match=r"config\.yaml has no model and data"):
        read_points([one])


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_picture_has_points_where_they_are_and_lines_of_one_bound(tmp_path):
    points = {"low": [Point(5.0, 90.0)], "high": [Point(50.0, 20.0), Point(50.0, 30.0)]}
    draw_plane(points, tmp_path / "plane.png")
    image = pixels(tmp_path / "plane.png")[:, :700]  # without the legend
    blue, orange = (
        np.argwhere((np.abs(image - np.array(colour)) < 12).all(-1)).mean(0)
        for colour in ((31, 119, 180), (255, 127, 14))
    )
    assert blue[0] < orange[0] - 100, "more distortion lies higher"
    assert blue[1] < orange[1] - 150, "more rate lies further to the right"
    grey = (np.ptp(image, axis=-1) < 6) & (image.mean(-1) > 120) & (image.mean(-1) < 230)
    assert grey[50:450, 80:480].sum() > 800, "no lines of constant ELBO"
    assert [path.name for path in tmp_path.iterdir()] == ["plane.png"]


def test_the_command_draws_prints_and_says_what_is_wrong(tmp_path, capsys):
    folders = [str(folder) for folder in runs(tmp_path / "runs")]
    assert main([*folders, "--out", str(tmp_path / "out" / "plane.png")]) == 0
    assert re.search(r"\| BetaVAE, beta 8\.0 \| 8\.00 \|", capsys.readouterr().out)
    assert pixels(tmp_path / "out" / "plane.png").std() > 1
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: There is no ")
