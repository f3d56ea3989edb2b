"""Files for a public host say of the project what the project says of itself."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CALLED = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # by conda-forge


def test_the_conda_recipe_needs_what_the_package_needs():
    project = (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0]
    needed = {CALLED.get(name, name): bound for name, bound in re.findall(r'"([\w-]+)>=([\d.]+)"', project)}
    recipe = (ROOT / "conda/meta.yaml").read_text().split("  run:")[1].split("test:")[0]
    asked = dict(re.findall(r"- ([\w-]+) >=([\d.]+)", recipe))
    assert asked.pop("python") == re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert asked == needed


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_templates_can_be_read(path):
    read = yaml.safe_load(path.read_text())
    assert read["name"]
    jobs = read.get("jobs", {})
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = {word for command in commands for word in re.findall(r"make ([\w-]+)", command)}
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
