"""The site: nothing public is missing, generated pages say what the code says, and links lead somewhere."""

import ast
import importlib.util
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer

import scduet as sd
from scduet.cli import build
from scduet.metrics import METRICS
from scduet.models import MODELS, TRANSFORMERS, find
from scduet.options import options_of

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
import api_pages  # noqa: E402
import docstrings  # noqa: E402
import other_pages  # noqa: E402
import stage  # noqa: E402

DESCRIBED = re.compile(r"^:+\{py:\w+\} ([\w.]+)", flags=re.MULTILINE)


@pytest.fixture(scope="module")
def pages():
    return stage.all_pages()


def test_every_public_name_is_in_the_reference(pages):
    described = {name for path, text in pages.items() if path.startswith("api/") for name in DESCRIBED.findall(text)}
    assert {f"scduet.{name}" for name in sd._PUBLIC if name not in api_pages.SUBMODULES} <= described
    assert {f"scduet.pl.{name}" for name in sd.pl.__all__} <= described
    assert {f"scduet.datasets.{name}" for name in sd.datasets.__all__} <= described


def test_every_metric_has_a_page_and_every_function_a_description(pages):
    assert {f"metrics/{name}.md" for name in METRICS} <= set(pages)
    texts = "".join(text for path, text in pages.items() if path.startswith("metrics/"))
    described = {name for name in DESCRIBED.findall(texts) if name.count(".") == 2}  # not members of classes
    functions = {f"scduet.metrics.{name}" for name in sd.metrics.__all__ if name not in ("METRICS", "Metric")}
    assert functions == described


@pytest.mark.parametrize("name", [*MODELS, *TRANSFORMERS])
def test_every_model_has_a_page_with_definition_options_and_papers(name, pages):
    text = pages[f"models/{name}.md"]
    assert "## Definition" in text
    assert "https://doi.org/" in text or "https://auai.org/" in text  # papers of UAI have no DOI
    if name in MODELS:
        fields = find(name).Config.__dataclass_fields__
        assert fields.keys() <= set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))
        told = {option.name: option.help for option in options_of(name)}
        assert all(docstrings.cell(told[field]) in text for field in fields)


def test_every_command_is_there_with_its_options(pages):
    commands = typer.main.get_command(build()).commands
    for name, command in commands.items():
        part = pages["cli.md"].partition(f"(scduet-{name})=")[2].partition("\n(scduet-")[0]
        assert all(f"`{option}`" in part for p in command.params if p.param_type_name == "option" for option in p.opts)


def test_every_function_of_r_is_there(pages):
    exported = re.findall(r"^export\(([\w.]+)\)", (ROOT / "r-package" / "NAMESPACE").read_text("utf-8"), re.MULTILINE)
    assert exported
    assert {f"(r-{name})=" for name in exported} <= set(pages["r.md"].splitlines())


def test_quick_start_holds_the_code_of_the_readme(pages):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for title in ("In Python", "In R", "On the command line"):
        code = re.search(r"```\w+\n.*?```", stage.section(readme, title), re.DOTALL)[0]
        assert code in pages["quickstart.md"]


def test_arguments_become_a_list_with_types():
    text = "Do it.\n\nx, y: two\n    numbers, x < y.\nnot_one: prose.\n\n"
    text += "Raises:\n    OSError: no *room*, ever.\n    KeyError: no `x`."
    assert docstrings.to_markdown(text, {"x": "", "y": ""}).split("\n\n") == [
        "Do it.",
        "* **x, y**: two numbers, x &lt; y.",
        "not_one: prose.",
        "Raises:",
        "* **OSError**: no *room*, ever.\n* **KeyError**: no `x`.",
    ]
    assert "* **x** (`int`): one" in docstrings.to_markdown("Do.\n\nx: one", {"x": "int"})


def test_formulas_become_code():
    assert docstrings.to_markdown("Of z\n    z ~ N(0, 1)\n      * 2\nand a * b.").split("\n\n") == [
        "Of z",
        "```text\nz ~ N(0, 1)\n  * 2\n```",
        "and a \\* b.",
    ]


def test_rmd_shows_its_chunks_without_set_up():
    text = '---\ntitle: "A"\nx: 1\n---\n\n```{r setup, include = FALSE}\nf()\n```\n\n'
    text += "Text.\n\n```{r a, eval = FALSE}\ng()\n```\n"
    assert other_pages.rmd_as_markdown(text) == "# A\n\nText.\n\n```r\ng()\n```\n"


def test_errors_are_listed_with_their_remedies(pages):
    """Also where a remedy was given a name before, and with what is filled in as ‹...›."""
    rows = dict(re.findall(r"^\| (.*?) \| (.*) \|$", pages["errors.md"], flags=re.MULTILINE))
    tree = ast.parse('def f(x):\n    remedy = f"pass {x}"\n    raise DataError(f"no {x.y!r} in {x}", remedy)')
    assert list(other_pages._errors_in(tree)) == [("DataError", "no ‹...› in ‹x›", "pass ‹x›")]
    from_source = rows[docstrings.cell("a transformer takes the genes of its vocabulary")]
    assert from_source == "leave n_top_genes out"


if importlib.util.find_spec("sphinx"):  # comes with `make docs`

    @pytest.fixture(scope="module")
    def site(tmp_path_factory):
        """The folder of the built pages; a warning is an error."""
        folder = tmp_path_factory.mktemp("site")
        stage.stage(folder / "source")
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", str(ROOT / "docs")]
        done = subprocess.run([*command, str(folder / "source"), str(folder / "html")], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return folder / "html"

    def test_links_lead_somewhere(site):
        ids, links = {}, []
        for file in site.rglob("*.html"):
            html = file.read_text(encoding="utf-8")
            ids[file] = set(re.findall(r'\bid="([^"]+)"', html))
            links += [(file, unescape(href)) for href in re.findall(r'<a [^>]*href="([^"]*)"', html)]
        assert len(links) > 1000
        broken = [(file.name, href) for file, href in links if not leads_somewhere(file, href, ids)]
        assert broken == []

    def leads_somewhere(file, href, ids):
        parts = urlsplit(href)
        if parts.scheme or parts.netloc:
            return parts.scheme in ("https", "mailto")
        target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
        fragment = unquote(parts.fragment)
        return target.exists() and (fragment in ("", *ids.get(target, ())))

    def test_references_are_found(site):
        lost = [
            (file.relative_to(site).as_posix(), code)
            for file in site.rglob("*.html")
            for code in re.findall(r'(?<!">)<code class="xref[^>]*>(.*?)</code>', file.read_text(encoding="utf-8"))
        ]
        assert lost == []

    def test_front_page_links_each_job_of_the_readme(site):
        table = stage.section((ROOT / "README.md").read_text(encoding="utf-8"), "What it does")
        front = (site / "index.html").read_text(encoding="utf-8")
        for name in set(re.findall(r"`sd\.(\w+)\(", table)):
            assert re.search(rf'href="api/\w+\.html#scduet\.{name}"', front), name
        for name in set(re.findall(r"`scduet ([\w-]+)", table)):
            assert f'href="cli.html#scduet-{name}"' in front
