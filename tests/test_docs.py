"""The documents name what exists."""

import importlib.util
import re
from pathlib import Path

import pytest
from web_fakes import FakeAsk, FakeRegistry, FakeStore

from web.api import create_app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_and_modules_exist(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert not [link for link in links if not (document.parent / link).exists()]
    modules = re.findall(r"python -m ([a-z_.]+)", text)
    assert not [module for module in modules if importlib.util.find_spec(module) is None]


def test_the_readme_opens_with_the_two_commands() -> None:
    first_screen = (ROOT / "README.md").read_text().splitlines()[:20]
    assert any(line.strip().startswith("make demo") for line in first_screen)
    assert any(line.strip().startswith("make test") for line in first_screen)


def test_the_routes_that_the_readme_lists_are_the_apis() -> None:
    listed = set(re.findall(r"/v1/[a-z/_{}.]+", (ROOT / "README.md").read_text())) - {"/v1/openapi.json"}
    served = {re.sub(r"\{[a-z_]+\}", "{}", path) for path in create_app(FakeRegistry(), FakeStore(), FakeAsk()).openapi()["paths"]}
    assert {re.sub(r"\{[a-z_]+\}", "{}", path) for path in listed} <= served


def test_make_targets_that_the_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for d in DOCUMENTS for name in re.findall(r"^ {4}make ([a-z]+)", d.read_text(), re.M)}
    assert named <= targets
