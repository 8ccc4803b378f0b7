"""The page of commands is that of the program: each command, each option, and nothing else."""

import re
import shlex

import click
import pytest

from offload_cli.main import cli
from tests.docs import pages

TEXT = (pages.DOCS / "reference" / "commands.md").read_text("utf-8")
SECTIONS = {
    heading.strip("`"): body
    for heading, body in pages.sections(TEXT, 2).items()
    if heading.startswith("`offload")
}


def leaves(command, path):
    """Yield the words of each command that does something, and the command."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(leaves(cli, ("offload",)))


def usage(name, command):
    """Return the heading of a command: its words and arguments."""
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    return " ".join([name, *(p.make_metavar(click.Context(command)) for p in arguments)])


def options(command):
    return {
        name
        for p in command.params
        if isinstance(p, click.Option) and not p.hidden
        for name in [*p.opts, *p.secondary_opts]
    }


def documented(body):
    return {
        word.split()[0]
        for row in pages.rows(body)
        for word in pages.code(row[0])
        if word.startswith("-")
    }


def test_each_command_has_its_section_and_each_section_its_command():
    assert {usage(*item) for item in COMMANDS.items()} == set(SECTIONS) - {"offload"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_described_and_each_one_described_is_there(name):
    assert documented(SECTIONS[usage(name, COMMANDS[name])]) == options(COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_each_option_has_a_help_text(name):
    command = COMMANDS[name]
    assert command.help.strip().endswith(".")
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []


def calls():
    """Yield page and words of each call of `offload` in the blocks of shell commands."""
    for path in pages.all_pages():
        for block in pages.blocks(path.read_text("utf-8"), "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("offload "):
                    yield pytest.param(line, id=f"{pages.page_id(path)}: {line[:50]}")


@pytest.mark.parametrize("line", list(calls()))
def test_each_call_in_the_documentation_would_be_understood(line):
    words = shlex.split(line, comments=True)[1:]
    command = cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert given <= options(command)


def test_each_call_in_a_sentence_names_a_command():
    named = set()
    for path in pages.all_pages():
        text = pages.without_code(path.read_text("utf-8"))
        named |= set(re.findall(r"`offload ([a-z][a-z ]*[a-z])", text))
    known = {name.removeprefix("offload ") for name in COMMANDS} | set(cli.commands)
    # What follows the command is an argument, such as the name of a file.
    wrong = [n for n in named if not any(f"{n} ".startswith(f"{k} ") for k in known)]
    assert wrong == []
