"""The command line against a real API."""

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner
from web_fakes import T0, FakeAsk, FakeRegistry, FakeStore, serving

from actors.cli import app
from web.api import create_app
from web.schemas import iso


@pytest.fixture
def address() -> Iterator[str]:
    api = create_app(FakeRegistry(), FakeStore({("gate", T0): b"", ("gate", T0 + 5000): b""}), FakeAsk(), token="t0ken")
    with serving(api) as url:
        yield url


def test_what_is_remembered_is_shown_by_camera(address: str) -> None:
    said = CliRunner().invoke(app, ["memory", "--url", address, "--token", "t0ken"], env={"COLUMNS": "240"})
    assert said.exit_code == 0
    gate = next(line for line in said.output.splitlines() if "gate" in line)
    assert iso(T0) in gate and iso(T0 + 5000) in gate and "lost" in gate
    assert any("yard" in line for line in said.output.splitlines())
