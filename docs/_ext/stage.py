"""Gather the sources of the site in one folder: the pages of docs/, the tutorials, and pages made from the code.

`python docs/_ext/stage.py docs/_build/source`, which `make docs` does before it calls Sphinx. In a page,
`{{README: Title}}` stands for that section of the README, `{{CODE: python}}` for its code in a language, and
`{{PAGES}}` for the pages of docs/ that the front page does not name.
"""

import re
import sys
from pathlib import Path

from api_pages import api_pages, metric_pages
from model_pages import model_pages
from other_pages import ROOT, cli_page, errors_page, gallery, r_page, r_topics, rmd_as_markdown, tutorial_page

import scduet

DOCS = ROOT / "docs"
COPIED = {  # file of the repository -> page
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
STAND_INS = {"README.md": "index.md", "vignettes": "tutorials/index.md", "vignettes/README.md": "tutorials/index.md"}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^ *```.*?^ *```)", flags=re.DOTALL | re.MULTILINE)


def stage(target: Path) -> None:
    """Write the pages to `target`, those that changed, and remove what is left of others."""
    pages = all_pages()
    for path, text in pages.items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    for file in target.rglob("*"):
        if file.is_file() and file.relative_to(target).as_posix() not in pages:
            file.unlink()


def link_data(target: Path) -> None:
    """The data beside the repository where the tutorials look for them when they run: two folders above."""
    data, link = ROOT.parent / "shared", target.parent / "shared"
    if data.is_dir() and not link.exists():
        link.symlink_to(data, target_is_directory=True)


def all_pages() -> dict[str, str]:
    """Path of each page of the site -> its text."""
    sources = {f"docs/{p.relative_to(DOCS)}": p.read_text(encoding="utf-8") for p in sorted(DOCS.rglob("*.md"))}
    sources = {name: text for name, text in sources.items() if not name.startswith(("docs/_", "docs/models/"))}
    places = {name: name.removeprefix("docs/") for name in sources}
    sources |= {name: (ROOT / name).read_text(encoding="utf-8") for name in COPIED}
    places |= COPIED
    models = {p.stem: p.read_text(encoding="utf-8") for p in sorted((DOCS / "models").glob("*.md"))}
    places |= {f"docs/models/{name}.md": f"models/{name}.md" for name in models}
    tutorials = {p.name: p.read_text(encoding="utf-8") for p in sorted((ROOT / "vignettes").glob("*.*"))}
    tutorials = {name: text for name, text in tutorials.items() if name.endswith((".ipynb", ".Rmd"))}
    tutorials = {n: rmd_as_markdown(text) if n.endswith(".Rmd") else text for n, text in tutorials.items()}
    places |= {f"vignettes/{name}": f"tutorials/{tutorial_page(name)}.md" for name in tutorials}
    known = {**places, **STAND_INS}

    pages = {places[name]: linked(filled(text, known), name, known) for name, text in sources.items()}
    by_hand = {name: linked(text, f"docs/models/{name}.md", known) for name, text in models.items()}
    pages |= dict(model_pages(by_hand)) | dict(api_pages()) | dict(metric_pages())
    pages |= {"cli.md": cli_page(), "r.md": r_page(), "errors.md": errors_page()}
    for name, text in tutorials.items():
        ending = "md" if name.endswith(".Rmd") else "ipynb"
        pages[f"tutorials/{tutorial_page(name)}.{ending}"] = _tutorial(name, text, known)
    others = [
        p.stem for p in sorted(DOCS.glob("*.md")) if not re.search(rf"^{p.stem}$", pages["index.md"], re.MULTILINE)
    ]
    pages["index.md"] = pages["index.md"].replace("{{PAGES}}", "\n".join(o for o in others if o != "index"))
    return pages | {"tutorials/index.md": gallery(tutorials)}


def filled(text: str, known: dict[str, str]) -> str:
    """`text` with the parts of the README, and the glossary, where it asks for them."""
    texts = {name: (ROOT / f"{name}.md").read_text(encoding="utf-8") for name in ("README", "ARCHITECTURE")}

    def part(match: re.Match) -> str:
        name, title = match.groups()
        if name == "CODE":
            return _code(texts["README"], title)
        return with_references(linked(section(texts[name], title), f"{name}.md", known))

    return re.sub(r"\{\{(\w+): (.+?)\}\}", part, text)


def section(text: str, title: str) -> str:
    """What stands below the heading `title`, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"no section {title!r}")
    return found[1].strip()


def with_references(text: str) -> str:
    """Functions and commands in code spans become links to their places in the reference."""
    topics = set(r_topics())

    def reference(match: re.Match) -> str:
        code = match[1]
        if (found := re.match(r"sd\.(\w+)\(", code)) and found[1] in scduet._PUBLIC:
            return f"{{py:obj}}`{code} <scduet.{found[1]}>`"
        if topic := next((word for word in re.findall(r"\w+", code) if word in topics), None):
            return f"[`{code}`](#r-{topic})"
        if found := re.match(r"scduet ([\w-]+)", code):
            return f"[`{code}`](#scduet-{found[1]})"
        return match[0]

    return re.sub(r"`([^`\n]+)`", reference, text)


def linked(text: str, source: str, known: dict[str, str]) -> str:
    """Links to files of the repository become links to pages of the site, or plain text where there is no page."""
    page = known[source]

    def link(match: re.Match) -> str:
        label, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if not path or ":" in path:
            return match[0]
        file = (ROOT / source).parent.joinpath(path).resolve()
        name = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else path
        if name in known:
            up = "../" * page.count("/")
            return f"[{label}]({up}{known[name]}{hash_}{anchor})"
        return f"`{name}`" if file.exists() else match[0]

    parts = FENCE.split(text)
    return "".join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(parts))


def _tutorial(name: str, text: str, known: dict[str, str]) -> str:
    return linked(text, f"vignettes/{name}", known) if name.endswith(".Rmd") else text


def _code(readme: str, language: str) -> str:
    title = {"python": "In Python", "r": "In R", "sh": "On the command line"}[language]
    return re.search(r"```\w+\n.*?```", section(readme, title), flags=re.DOTALL)[0]  # type: ignore[index]


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
    link_data(Path(sys.argv[1]))
