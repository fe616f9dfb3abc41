"""Options are made of the fields of dataclasses: what a configuration says of a setting is what its command does."""

import subprocess
import sys
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from lede.adapt.config import AdaptConfig, ExitsConfig
from lede.cli import app
from lede.collect.config import CollectConfig
from lede.commands.from_config import Given, flag, from_config
from lede.commands.options import Runtime
from lede.errors import said_plainly
from lede.ground import Bytes, option
from lede.learn.config import LearnConfig

COMMANDS = {"learn": [LearnConfig], "collect": [CollectConfig, Runtime], "adapt": [AdaptConfig, ExitsConfig]}
COMMANDS |= {name: [Runtime] for name in ("bench", "calibrate", "chat", "generate", "report", "serve")}


@dataclass(frozen=True)
class Cake:
    layers: tuple[int, ...] | None = option(None, "Where cream is.", "--cream")
    sugar: float = option(0.5, "Its share.", min=0.0, max=1.0)
    kind: Literal["round", "square"] = option("round", "How it is cut.")
    hidden: int = 3


@dataclass(frozen=True)
class Large(Cake):
    sugar: float = 0.6
    weight: Bytes | None = option(None, "At most.")
    iced: bool = option(True, "With icing.")


def run(*arguments: str, kind: Any) -> tuple[Any, str]:
    """What a command with a parameter of this kind gets from these arguments, and what it prints."""
    seen: list[Any] = []
    made = typer.Typer(rich_markup_mode="rich")

    @made.command()
    @said_plainly
    @from_config
    def bake(*, before: str = "b", cake: kind, after: str = "a") -> None:
        seen.append((before, cake, after))

    done = CliRunner().invoke(made, [*arguments], env={"COLUMNS": "200"})
    return (seen[0] if seen else done.exit_code), done.output


def test_a_command_gets_what_was_given_or_the_whole_configuration():
    assert run(kind=Annotated[Given, Cake])[0] == ("b", {}, "a")
    given = ("--cream", "0,4", "--sugar", "0.1", "--after", "z")
    assert run(*given, kind=Annotated[Given, Cake])[0] == ("b", {"layers": (0, 4), "sugar": 0.1}, "z")
    assert run(*given, kind=Cake)[0] == ("b", Cake((0, 4), 0.1), "z")
    several = ("--sugar", "0", "--weight", "2kB", "--no-iced")
    assert run(*several, kind=Annotated[Given, Cake, Large])[0][1] == {"sugar": 0.0, "weight": 2000, "iced": False}


def test_what_is_wrong_is_said_as_of_any_option():
    code, said = run("--cream", "two", kind=Cake)
    assert code == 2 and said == "lede: 'two' is not a list of layers such as 0,4,5,6,8\n"
    code, said = run("--sugar", "2", kind=Cake)
    assert code == 2 and "Invalid value for '--sugar'" in said
    code, said = run("--hidden", "2", kind=Cake)
    assert code == 2 and "No such option" in said


def test_help_has_the_field_s_words_and_limits_and_its_default_where_there_is_one():
    _, said = run("--help", kind=Cake)
    for words in ("--cream", "Where cream is.", "[0.0<=x<=1.0]", "Its share. Default: 0.5", "cut. Default: round"):
        assert words in said
    assert said.index("--before") < said.index("--cream") < said.index("--sugar") < said.index("--after")
    _, said = run("--help", kind=Annotated[Given, Cake, Large])
    assert "Its share." in said and "Its share. Default" not in said  # they have two
    assert "--iced" in said and "--no-iced" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_with_words_is_an_option_of_its_command(command):
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400"})
    assert done.exit_code == 0
    for config in COMMANDS[command]:
        settings = [one for one in fields(config) if one.metadata]
        assert settings
        for one in settings:
            assert f"{flag(one)} " in done.output and one.metadata["help"].partition(" [dim]")[0] in done.output


def test_options_import_no_library_for_numbers():
    heavy = {"numpy", "pyarrow", "polars", "torch", "d3rlpy", "transformers"}
    code = f"import sys, lede.cli; assert not {heavy!r} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
