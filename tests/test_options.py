"""The table of options against Bokeh's own, and against its page, `docs/options.md`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from bokeh.command.subcommand import Argument
from bokeh.command.subcommands.serve import Serve
from bokeh.settings import settings as bokeh_settings

from aperture.config.options import BY_NAME, OPTIONS, Kind, Option
from aperture.config.plan import DERIVED, ServePlan
from aperture.config.settings import Settings

ROOT = Path(__file__).parents[1]
UNSET = Argument().default

THEIRS: dict[str, Argument] = {str(flag): argument for flag, argument in Serve.args if flag != "files"}
OURS = {option.flag: option for option in OPTIONS}


def stated(argument: Argument) -> dict[str, Any]:
    """The fields that Bokeh's table gives for an option."""
    values = {field.name: getattr(argument, field.name) for field in dataclasses.fields(argument)}
    return {name: value for name, value in values.items() if value is not UNSET}


def kind_of(argument: dict[str, Any]) -> Kind:
    if argument.get("action") == "store_true":
        return Kind.FLAG
    if argument.get("action") == "append":
        return Kind.REPEATED
    by_count = {"*": Kind.FILES, "+": Kind.LIST, "...": Kind.REST}
    if argument.get("nargs") in by_count:
        return by_count[argument["nargs"]]
    return Kind.WHOLE if argument.get("type") is int else Kind.TEXT


def test_every_option_is_bokehs_or_is_marked_as_added() -> None:
    """Nothing of `bokeh serve` is missing, and nothing of ours passes for Bokeh's."""
    assert {flag for flag, option in OURS.items() if not option.added} == THEIRS.keys()


@pytest.mark.parametrize("flag", THEIRS)
def test_an_option_is_what_it_is_in_bokeh(flag: str) -> None:
    """The same shape, default and choices, so that a user replaces one word of the command."""
    theirs, ours = stated(THEIRS[flag]), OURS[flag]
    assert ours.kind is kind_of(theirs)
    assert ours.default == theirs.get("default")
    assert ours.choices == (tuple(theirs["choices"]) if "choices" in theirs else None)


OF_NO_OPTION = {
    # Keywords of aperture.Server that the command line has no word for.
    *("absolute_url", "auth_provider", "extra_patterns", "http_server_kwargs", "tornado_settings"),
    # Decided anew at each start of a node.
    *("metrics_dir", "node", "redis_held"),
    # A constant that tests shorten.
    "stored_lifetime",
}


def test_every_field_of_the_settings_is_filled_once() -> None:
    """By one option or by one function of several; what neither fills is listed here, with its reason."""
    filled = [*(option.fills for option in OPTIONS if option.fills), *DERIVED, *OF_NO_OPTION]
    assert sorted(filled) == sorted(field.name for field in dataclasses.fields(Settings))


def test_an_option_that_fills_no_field_is_read_elsewhere() -> None:
    """Its value goes into a derived field or into the plan of the command: none is accepted and then forgotten."""
    into_the_plan = {field.name for field in dataclasses.fields(ServePlan)}
    read_elsewhere = {
        *("ssl_certfile", "ssl_keyfile"),  # tls
        "admin_token_file",  # admin_token
        *("args", "dev", "glob", "use_config"),  # app_arguments, watched, files, config_file
    }
    for option in OPTIONS:
        if option.fills is None:
            assert option.name in {*DERIVED, *into_the_plan, *read_elsewhere}, option.flag


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.bokeh], ids=lambda option: option.name)
def test_bokehs_variables_are_spelled_as_bokeh_spells_them(option: Option) -> None:
    """`BOKEH_…` is derived from the setting's name, which holds only as long as Bokeh does so, too."""
    assert option.bokeh is not None
    assert getattr(bokeh_settings, option.bokeh).env_var == option.bokeh_environment


def test_names_are_unique() -> None:
    """Two options with one variable would overwrite each other."""
    assert len(BY_NAME) == len(OPTIONS)


def documented_rows() -> list[list[str]]:
    """The cells of the page's table of options."""
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    table = text.split("<!-- options -->")[1].split("<!-- end of options -->")[0]
    rows = [line.strip().strip("|").split(" | ") for line in table.splitlines() if line.startswith("| `--")]
    return [[cell.strip() for cell in row] for row in rows]


def expected_row(option: Option) -> list[str]:
    default = option.effective_default
    variables = [f"`{option.environment}`"] + ([f"`{option.bokeh_environment}`"] if option.bokeh else [])
    shown = "no" if option.kind is Kind.FLAG else "" if default is None else f"`{default}`"
    name = f"`{option.flag}`" + (" (new)" if option.added else "")
    return [name, ", ".join(variables), shown, option.help]


def test_the_page_lists_every_option() -> None:
    """The page's table is this table."""
    assert documented_rows() == [expected_row(option) for option in OPTIONS]
