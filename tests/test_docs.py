"""The documentation is executed: Python blocks run, command lines parse, tables of defaults equal the code, links and pages exist."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^ {4}(?:HF_HUB_OFFLINE=1 )?((?:torchrun .*? -m )?modeseek [^\n]*)$", re.MULTILINE)


def blocks(page):
    return BLOCK.findall(page.read_text())


def commands():
    """Every command line shown, without its comment."""
    for page in PAGES:
        for found in COMMAND.finditer(page.read_text()):
            line = re.split(r"\s{2,}#|\s# ", found[1])[0].split(" -m ")[-1]
            if "..." not in line and "[" not in line:
                yield pytest.param(line, id=f"{page.name}: {line[:60]}")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch, pipeline_folder, tiny_hub):
    """The blocks of a page run in order, in one namespace and an empty folder; hub ids stand for tiny pipelines on disk."""
    import modeseek
    from modeseek.priors import load

    real = load.load_prior

    def local(source, **settings):
        if isinstance(source, str) and source.startswith("stable-diffusion"):
            settings = {name: value for name, value in settings.items() if name not in ("device", "dtype", "download", "variant")}
            return real(pipeline_folder("sd1"), image_size=(32, 32), **settings)
        return real(source, **settings)

    monkeypatch.setattr(modeseek, "load_prior", local, raising=False)
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "__main__"}
    for number, code in enumerate(blocks(page)):
        exec(compile(code, f"{page.name}, block {number + 1}", "exec"), space)


@pytest.mark.parametrize("line", list(commands()))
def test_command_lines_parse(line):
    from modeseek.cli import COMMANDS

    name, *arguments = shlex.split(line)[1:]
    if name.startswith("-"):
        return
    assert name in COMMANDS, f"no command {name}"
    tyro.cli(COMMANDS[name][0], args=arguments)


def test_default_tables_equal_the_code():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import defaults_table
    finally:
        sys.path.pop(0)
    text = defaults_table.PAGE.read_text()
    assert defaults_table.page(text) == text, "run python tools/defaults_table.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_exist(page):
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in PAGES[1:] if page.name not in navigation] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
