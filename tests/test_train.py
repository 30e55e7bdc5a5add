"""`longwatch train` from annotations to a model that `longwatch up` loads."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_adapting import saved
from test_camera import make_video
from test_clips import TURNS
from typer.testing import CliRunner

from actors.cli import app
from actors.parts import Settings, load_model
from model.adapting.clips import BadData
from model.adapting.progress import FolderTaken
from model.backbone import Backbone
from model.patches import TooManyPatches
from pipeline.config import Config
from pipeline.core import LongwatchError

SMALL = ("--steps", "2", "--batch", "1", "--frames", "3", "--rank", "2", "--rate", "0.01")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "ball.mp4", "x264enc speed-preset=ultrafast ! h264parse ! mp4mux", seconds=4, fps=5, size="width=160,height=90")
    file = folder / "annotations.json"
    file.write_text(json.dumps([{"video": name, "conversations": TURNS} for name in ("ball.mp4", "gone.mp4")]))
    return file


def train(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, arguments), *SMALL], env={"COLUMNS": "300"})


def fingerprint(**settings: Any) -> str:
    return load_model(Settings.of(Config.model_validate(settings), "redis://127.0.0.1")).fingerprint


def test_what_was_learnt_is_served(base: Path, annotations: Path, tmp_path: Path) -> None:
    said = train(annotations, "--model", base, "--out", tmp_path / "out")
    assert said.exit_code == 0, said.output
    assert "stage 1, loss" in said.output and "stage 2, loss" in said.output and "2/2" in said.output
    assert "clips could not be shown and were skipped; the first:" in said.output and "entry 1: no video" in said.output
    assert fingerprint(model=str(base), adapter=tmp_path / "out") != fingerprint(model=str(base))

    again = train(annotations, "--model", base, "--out", tmp_path / "out")
    assert isinstance(again.exception, FolderTaken)
    assert train(annotations, "--model", base, "--out", tmp_path / "out", "--resume").exit_code == 0, "nothing is left to do"


def test_patches_are_taught_and_kept_as_they_were_taught(base: Path, tmp_path: Path) -> None:
    said = train("simulator", "--model", base, "--out", tmp_path / "out", "--stage", "2", "--patches", "2")
    assert said.exit_code == 0, said.output
    assert Backbone.load(base, adapter=tmp_path / "out").patches == 2 and Backbone.load(base).patches != 2
    other = train("simulator", "--model", base, "--out", tmp_path / "out", "--stage", "2", "--patches", "all", "--resume")
    assert "patches was 2, not all" in str(other.exception)
    assert "use a number, 0 for none, or all" in train("simulator", "--model", base, "--out", tmp_path / "odd", "--patches", "-1").output
    more = train("simulator", "--model", base, "--out", tmp_path / "odd", "--patches", "999")
    assert isinstance(more.exception, TooManyPatches)


def test_simulated_sites_teach_too(base: Path, tmp_path: Path) -> None:
    said = train("simulator", "--model", base, "--out", tmp_path / "out", "--stage", "2")
    assert said.exit_code == 0 and "stage 2, loss" in said.output and "stage 1" not in said.output, said.output


def test_what_is_wrong_is_said_before_the_model_is_loaded(annotations: Path, tmp_path: Path) -> None:
    assert isinstance(train(tmp_path / "gone.json", "--model", "nothing/here", "--out", tmp_path / "out").exception, BadData)
    assert not (tmp_path / "out").exists()


def test_a_wrong_adapter_stops_the_start(base: Path) -> None:
    with pytest.raises(LongwatchError, match="is no adapter"):
        fingerprint(model=str(base), adapter=base)
