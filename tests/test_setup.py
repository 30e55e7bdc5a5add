"""Set-up from a fresh clone: the script, the Makefile, and the list of what is depended on."""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / "scripts/setup.sh"
TOOLS = ("sh", "env", "cat", "grep", "sed", "id", "mktemp", "rm", "dirname", "cksum")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ) | environment
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=250, check=False, env=env)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout as far as the script is concerned."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SETUP, tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder to be PATH, of a machine with none of our packages and neither apt-get nor sudo."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))
    fake(folder, "dpkg-query", "exit 1")
    return folder


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)  # it may be a link to the real one, which must not be written to
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def listed(heading: str) -> set[str]:
    """The packages of one table of docs/dependencies.md."""
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([^`]+)` \|", text.split(f"## {heading}\n")[1].split("\n## ")[0], re.MULTILINE))


@pytest.mark.parametrize(("shell", "script"), [("sh", "scripts/setup.sh"), ("bash", "scripts/setup.sh"), ("bash", ".ci/run")])
def test_scripts_are_valid_shell(shell: str, script: str) -> None:
    assert run(shell, "-n", ROOT / script).returncode == 0


def test_what_is_done_is_not_done_again(clone: Path, bare: Path) -> None:
    fake(bare, "dpkg-query", "echo -n installed")
    venv_python = clone / ".venv/bin/python"
    venv_python.parent.mkdir(parents=True)
    fake(bare, "python", "exit 0")  # as the distribution's
    shutil.copy(bare / "python", venv_python)
    (clone / ".venv/pyvenv.cfg").write_text(f"command = python -m venv {clone}/.venv\n")
    environment = {"PATH": str(bare), "PYTHON": str(bare / "python")}

    first = run(clone / "scripts/setup.sh", "dev", **environment)
    assert first.returncode == 0 and "installing Python packages" in first.stdout, first

    for arguments in (["dev"], []):  # what serves for development serves for running
        began = time.monotonic()
        again = run(clone / "scripts/setup.sh", *arguments, **environment)
        assert again.returncode == 0 and "done" in again.stdout and len(again.stdout.splitlines()) == 1, again
        assert time.monotonic() - began < 15

    (clone / "pyproject.toml").write_text("changed")
    assert "installing Python packages" in run(clone / "scripts/setup.sh", **environment).stdout


def test_an_interrupted_installation_is_begun_again(clone: Path, bare: Path) -> None:
    fake(bare, "dpkg-query", "echo -n installed")
    fake(bare, "python", f"case $* in *venv*) mkdir -p {clone}/.venv/bin; cp {bare}/failing {clone}/.venv/bin/python;; esac")
    fake(bare, "failing", "echo 'no matching distribution' >&2; exit 1")
    for tool in ("mkdir", "cp"):
        (bare / tool).symlink_to(shutil.which(tool) or "")
    for _ in range(2):
        told = run(clone / "scripts/setup.sh", PATH=str(bare), PYTHON=str(bare / "python"))
        assert told.returncode != 0 and "no matching distribution" in told.stderr
        assert "done" not in told.stdout


def test_without_apt_the_command_to_run_by_hand_is_printed(clone: Path, bare: Path) -> None:
    told = run(clone / "scripts/setup.sh", "dev", PATH=str(bare), PYTHON=sys.executable)
    assert told.returncode == 1
    (command,) = [line for line in told.stderr.splitlines() if "apt-get install" in line]
    missing = set(command.split("--no-install-recommends ")[1].split())
    assert missing | {"chromium"} == listed("Packages of the distribution")
    assert not (clone / ".venv").exists()


def test_without_root_or_sudo_nothing_is_installed(clone: Path, bare: Path) -> None:
    fake(bare, "id", "echo 1000")
    fake(bare, "apt-get", f"echo called > {clone}/apt")
    told = run(clone / "scripts/setup.sh", PATH=str(bare), PYTHON=sys.executable)
    assert told.returncode == 1 and "sudo apt-get install" in told.stderr and not (clone / "apt").exists()


def test_a_failed_installation_shows_all_that_apt_said(clone: Path, bare: Path) -> None:
    fake(bare, "id", "echo 0")
    fake(bare, "apt-get", "echo 'E: no space left'; exit 100")
    fake(bare, "systemctl", "exit 0")
    fake(bare, "update-rc.d", "exit 0")
    told = run(clone / "scripts/setup.sh", PATH=str(bare), PYTHON=sys.executable)
    assert told.returncode == 1 and "E: no space left" in told.stderr


def test_a_python_too_old_is_named_before_anything_is_installed(clone: Path, bare: Path) -> None:
    fake(bare, "python", 'test "$1" = -V && echo Python 3.9.2; exit 1')
    told = run(clone / "scripts/setup.sh", PATH=str(bare), PYTHON=str(bare / "python"))
    assert told.returncode == 1 and "Python 3.9.2, and 3.11 or newer is needed" in told.stderr


def test_an_unknown_argument_is_refused(clone: Path) -> None:
    assert run(clone / "scripts/setup.sh", "--help").returncode == 1


def test_make_lists_its_targets() -> None:
    told = run("make", "-C", ROOT, "--no-print-directory").stdout
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert targets >= {"help", "setup", "demo", "up", "check", "test", "clean"}
    assert {line.split()[1] for line in told.splitlines()} == targets


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = re.compile(r"[A-Za-z0-9_.-]+")

    def names(requirements: list[str]) -> set[str]:
        return {found[0] for requirement in requirements if (found := name.match(requirement))}

    assert listed("Python packages") == names(project["dependencies"])
    assert listed("Python packages for tracing") == names(project["optional-dependencies"]["tracing"])
    assert listed("Python packages for development") == names(project["optional-dependencies"]["dev"])


def test_every_distribution_package_is_explained() -> None:
    script = SETUP.read_text(encoding="utf-8")
    wanted = {package for text in re.findall(r'^(?:dev_)?packages="([^"]*)"', script, re.MULTILINE) for package in text.split()}
    assert wanted == listed("Packages of the distribution")


@pytest.mark.parametrize(("status", "closing"), [(0, "7 passed in 3.21s"), (2, "1 failed, 6 passed in 65.10s (0:01:05)")])
def test_ci_ends_with_the_closing_line_and_the_status_of_make(tmp_path: Path, status: int, closing: str) -> None:
    fake(tmp_path, "make", f'test "$CI $*" = "true test" && echo "{closing}" && echo "make: last words" >&2; exit {status}')
    told = run("bash", ROOT / ".ci/run", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert told.returncode == status and told.stdout.splitlines()[-1] == closing, told
