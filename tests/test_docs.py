"""What the documentation names exists: files, constants, options and the ends of links."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.patience import seconds

from aperture.config.options import OPTIONS, Option
from aperture.doctor.command import doctor_parser
from aperture.gateway.admin.drain import drain_parser
from aperture.metrics.families import FAMILIES

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(page for folder in ("docs", "deploy", "examples") for page in sorted((ROOT / folder).rglob("*.md"))),
]
DOCS = sorted((ROOT / "docs").glob("*.md"))
GUIDE = ROOT / "docs" / "operators-guide.md"
DECISIONS = sorted(set((ROOT / "docs" / "decisions").glob("*.md")) - {ROOT / "docs" / "decisions" / "index.md"})
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
FIGURES = ROOT / "bench" / "results" / "latest.json"

DEPLOYED = [
    ROOT / "docker-compose.yml",
    *(path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file() and path.suffix not in (".md", ".json")),
]
"""What starts nodes, asks them or stands before them; Grafana's dashboard aside."""
FLAGS = {option.flag for option in OPTIONS} | {
    flag
    for add_arguments in (drain_parser, doctor_parser)
    for action in add_arguments(argparse.ArgumentParser())._actions
    for flag in action.option_strings
}
VARIABLES = {option.environment for option in OPTIONS}
METRICS = set(FAMILIES)

FOLDERS = ("bench", "deploy", "docs", "examples", "gateway", "requirements", "shared", "tests", "worker")
"""A path in backticks that begins with one of these is one of the repository."""

OF_OTHERS = {
    *("--appendonly", "--bind", "--requirepass", "--save"),  # redis-server
    *("--check", "--strict"),  # ruff, mypy
    *("--list", "--quick", "--row"),  # bench/run.py
    *("--fault", "--mistake", "--nodes", "--steps"),  # tests/soak
    *("--inputs", "--seed"),  # tests/fuzz
    *("--directory", "--server"),  # http.server, examples/flask_embed.py
    *("--build", "--build-arg", "--no-cache-dir", "--no-deps", "--scale"),  # docker, pip, compose
    *("--config", "--now"),  # caddy, systemctl
}
"""Options of other programs that pages name."""

OF_OTHERS_DEPLOYED = {
    *("--chmod", "--from", "--interval", "--retries", "--start-period", "--timeout"),  # Docker's instructions
    *("--file", "--force", "--format", "--publish", "--rm", "--tag", "--volume"),  # docker
    *("--all", "--detach", "--no-recreate", "--quiet", "--wait"),  # compose
    *("--find-links", "--no-build-isolation", "--no-deps", "--no-index", "--only-binary", "--requirement"),  # pip
    *("--constraint", "--root", "--wheel-dir"),  # pip
    *("--maxmemory", "--maxmemory-policy", "--protected-mode"),  # redis-server
    *("--config", "--storage"),  # prometheus
    *("--skip-worktree",),  # git
}
"""And those that files of deployment name beside them."""

_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*")
_CONSTANT_IN = re.compile(r"((?:`[A-Z_]+`(?:, )?)+) in `([\w/]+\.py)`")
_FUNCTION_IN = re.compile(r"((?:`[A-Za-z_]+`(?:, )?)+) in `([\w/]+\.py)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
_VARIABLE = re.compile(r"\bAPERTURE_[A-Z_]*[A-Z]\b")
_FIGURE = re.compile(r"(?m)^\| `([\w-]+)` \| ([\d.,]+) ?(\S+) \|")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"(?m)^#+ (.+)$")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to."""
    headings = _HEADING.findall(text_of(page))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def paths_in(page: Path) -> set[str]:
    """What stands in backticks and looks like a file or folder of the repository."""
    return {code for code in _CODE.findall(text_of(page)) if _PATH.fullmatch(code)}


def test_paths_are_found() -> None:
    """The other tests here would hold of nothing at all."""
    assert {"gateway/cli.py", "worker/relay/edge.py"} <= paths_in(ROOT / "docs" / "architecture.md")


@pages
def test_every_path_exists(page: Path) -> None:
    """A page that sends its reader to a file that was moved is worse than none."""
    assert {path for path in paths_in(page) if not (ROOT / path).exists()} == set()


@pages
def test_every_constant_is_in_the_file_that_is_named(page: Path) -> None:
    """`NAME` in `file.py` is a promise, too."""
    for names, file in _CONSTANT_IN.findall(text_of(page)):
        source = text_of(ROOT / file)
        assert not {name for name in _CODE.findall(names) if not re.search(rf"(?m)^{name}\b", source)}, file


def test_every_line_to_find_is_there() -> None:
    """Of "Find the line": each class, function and constant is defined in the file that is named."""
    table = text_of(ROOT / "docs" / "architecture.md").partition("## Find the line")[2].partition("\n## ")[0]
    found = [(name, file) for names, file in _FUNCTION_IN.findall(table) for name in _CODE.findall(names)]
    assert len(found) > 30
    for name, file in found:
        defined = rf"(?m)^ *(?:async def|def|class) {name}\b|^{name} = "
        assert re.search(defined, text_of(ROOT / file)), f"{name} in {file}"


@pages
def test_every_option_exists(page: Path) -> None:
    """No page speaks of an option that was renamed, or was never there."""
    # Panel's own are compared with Panel in tests/test_panel_page.py.
    panels = (
        set(re.findall(r"--[a-z-]+", text_of(page).partition("## Options")[2])) if page.name == "panel.md" else set()
    )
    assert set(_OPTION.findall(text_of(page))) - FLAGS - OF_OTHERS - panels == set()


@pages
def test_every_variable_exists(page: Path) -> None:
    """An option's variable is spelled as the command reads it."""
    assert set(_VARIABLE.findall(text_of(page))) - VARIABLES == set()


@pytest.mark.parametrize("file", DEPLOYED, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_option_and_variable_that_files_of_deployment_name_exists(file: Path) -> None:
    """Whether in an argument or in a comment that explains one."""
    assert set(_OPTION.findall(text_of(file))) - FLAGS - OF_OTHERS - OF_OTHERS_DEPLOYED == set()
    assert set(_VARIABLE.findall(text_of(file))) - VARIABLES == set()


def test_the_files_of_deployment_are_found() -> None:
    """The test above would hold of nothing at all."""
    named = set().union(*(_OPTION.findall(text_of(file)) for file in DEPLOYED))
    assert {"--use-xheaders", "--shutdown-grace"} <= named
    assert {"deployment.yaml", "Dockerfile", "docker-compose.yml"} <= {file.name for file in DEPLOYED}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_has_a_place_in_the_operators_guide(option: Option) -> None:
    """By what it is for; `docs/options.md`, which another test holds, lists them in the command's order."""
    table = text_of(GUIDE).split("\n## Every option")[1].split("\n## ")[0]
    assert option.flag in _OPTION.findall(table)


def test_every_alert_has_a_line_in_the_operators_guide() -> None:
    """An operator who is woken by a name looks for it there."""
    rules = [rule for group in yaml.safe_load(text_of(RULES))["groups"] for rule in group["rules"]]
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    assert alerts
    assert alerts == set(re.findall(r"\bAperture[A-Z]\w+", text_of(GUIDE)))


@pytest.mark.parametrize(
    "page", [page for page in DOCS if page != ROOT / "docs" / "metrics.md"], ids=lambda page: page.name
)
def test_every_metric_exists(page: Path) -> None:
    """A query to copy from a page finds something; `docs/metrics.md` itself is held by the tests of metrics."""
    known = {f"{name}{end}" for name in METRICS for end in ("", "_bucket", "_count", "_sum")}
    assert set(re.findall(r"\baperture_[a-z_]+", text_of(page))) <= known


def test_the_operators_guide_has_the_figures_that_were_measured() -> None:
    """Sizing from figures of long ago is guessing; `python bench/report.py` puts in what is new."""
    measured = {row["name"]: row for row in json.loads(text_of(FIGURES))["rows"]}
    figures = _FIGURE.findall(text_of(GUIDE))
    assert {"trips", "sessions", "memory-session", "memory-connection", "keep-memory"} <= {name for name, *_ in figures}
    for name, figure, unit in figures:
        assert unit == measured[name]["unit"], name
        assert float(figure.replace(",", "")) == pytest.approx(measured[name]["ours"]["median"], rel=0.01), name


@pages
def test_every_relative_link_resolves(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    for link in _LINK.findall(text_of(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_readme_is_one_reading() -> None:
    """What is looked up, such as options and differences, has pages of its own."""
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_every_decision_says_why_what_and_what_follows(page: Path) -> None:
    """In that order; a page without the consequences is a rule."""
    assert _HEADING.findall(text_of(page))[1:] == ["Context", "Decision", "Consequences"]


# -- the API reference


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` runs."""
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds(120), cwd=ROOT)


def test_the_reference_is_built_without_a_warning(tmp_path: Path) -> None:
    """Each public module is in it, with what it offers."""
    built = build(ROOT / "docs", tmp_path)
    assert (built.returncode, built.stderr) == (0, "")
    page = (tmp_path / "reference.html").read_text(encoding="utf-8")
    for name in ("session_state", "Server.run_until_shutdown", "errors.ConfigurationError", "config.settings.Settings"):
        assert f'id="aperture.{name}"' in page


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("`aperture.errors.NoSuchError`", "there is no aperture.errors.NoSuchError"),
        ("`aperture.worker.gone.Gone`", "there is no aperture.worker.gone.Gone"),
        (":class:`NoSuchClass`", "reference target not found: NoSuchClass"),
        (".. autofunction:: aperture.no_such_function", "no_such_function"),
        (".. function:: f(x: aperture.NoSuchType)", "reference target not found: aperture.NoSuchType"),
    ],
)
def test_a_broken_reference_is_an_error(tmp_path: Path, text: str, complaint: str) -> None:
    """Whether it stands in backticks, in a role, in a directive or in a signature."""
    shutil.copy(ROOT / "docs" / "conf.py", tmp_path)
    shutil.copytree(ROOT / "docs" / "_static", tmp_path / "_static")
    (tmp_path / "index.md").write_text(f"# A page\n\n```{{eval-rst}}\n{text}\n```\n", encoding="utf-8")
    built = build(tmp_path, tmp_path / "built")
    assert built.returncode != 0
    assert complaint in built.stderr
