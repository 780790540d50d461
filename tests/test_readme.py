"""What the README and the docs say is run, so that it stays true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from seqtune import cli
from seqtune.settings import knobs

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "containers/README.md",
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r"\s+#.*", "", line.split("|")[-1]).strip()
                if line.startswith("seqtune "):
                    found.append(line)
    return found


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str):
    """Each documented command has options that exist and arguments that fit; nothing is run."""
    name, *arguments = shlex.split(line)[1:]
    command = cli.seqtune.commands[name]
    with click.Context(command, info_name=name) as ctx:
        command.parse_args(ctx, arguments)
        assert ctx.params.keys() >= {parameter.name for parameter in command.params if parameter.expose_value}


def test_there_are_commands_to_check():
    assert len(commands()) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_compile(page: Path):
    for block in blocks(page, "python"):
        assert compile(block, str(page), "exec").co_names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_named_in_text_exist(page: Path):
    known = {knob.option for knob in knobs().values()}
    known |= {option for command in cli.seqtune.commands.values() for p in command.params for option in p.opts}
    known |= {
        option for command in cli.seqtune.commands.values() for p in command.params for option in p.secondary_opts
    }
    for option in re.findall(r"`(--[a-z-]+)(?![a-z_-])", page.read_text(encoding="utf-8")):
        if "container" not in str(page):
            assert option in known, option
