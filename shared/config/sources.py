"""Where the value of an option comes from.

The command line wins over `APERTURE_<OPTION>`, which wins over Bokeh's own settings (a `--use-config` file, then
`BOKEH_…`, then `~/.bokeh/bokeh.yaml`), which win over the default. Text is converted and checked here, once, with the
name of its source in every complaint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aperture.config.options import BOKEH_PREFIX, BY_NAME, Kind, Option
from aperture.errors import ConfigurationError

__all__ = ["Sources", "as_bool"]

_YES = frozenset({"yes", "true", "1", "on"})
_NO = frozenset({"no", "false", "0", "off"})


def as_bool(value: object) -> bool:
    """`yes`, `true`, `1`, `on` and their opposites, in any case, as a boolean.

    Raises:
        ValueError: it is none of them; `bool("no")` would be True.
    """
    word = str(value).strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError("neither yes nor no (accepted are yes, true, 1, on, no, false, 0 and off)")


class Sources:
    """The sources of one start, best first. An empty variable counts as one that is not set.

    Args:
        given: what the command line holds, by the option's name.
        environment: usually `os.environ`.
    """

    def __init__(self, given: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._given = given
        self._environment = environment
        self.config_file: str | None = self.stated(BY_NAME["use_config"])
        self._config: Mapping[str, Any] | None = None

    def value(self, option: Option) -> Any:
        """The value that counts.

        Raises:
            ConfigurationError: the source that counts holds something that cannot be the option's value.
        """
        found = self.stated(option)
        if found is None and option.bokeh is not None:
            found = self._from_bokeh(option)
        if found is None:
            found = False if option.kind is Kind.FLAG else option.effective_default
        return found

    def stated(self, option: Option) -> Any:
        """What was said about `option` to Aperture itself, or None."""
        if option.name in self._given:
            return self._checked(option, option.flag, self._given[option.name])
        text = self._environment.get(option.environment)
        if not text or _is_a_service_link(option, text):
            return None
        return self._checked(option, option.environment, text)

    def bokeh(self, name: str) -> Any:
        """The value of `bokeh.settings.<name>`, or None if it is not set."""
        if name in self._override():
            return self._override()[name]
        return self._environment.get(BOKEH_PREFIX + name.upper()) or _user_config().get(name)

    def _from_bokeh(self, option: Option) -> Any:
        found = None if option.bokeh is None else self.bokeh(option.bokeh)
        return None if found is None else self._checked(option, str(option.bokeh_environment), found)

    def _override(self) -> Mapping[str, Any]:
        if self._config is None:
            self._config = {} if self.config_file is None else _read_config(self.config_file)
        return self._config

    @staticmethod
    def _checked(option: Option, source: str, value: object) -> Any:
        try:
            converted = _CONVERT[option.kind](value)
            _check_range(option, converted)
        except ValueError as problem:
            raise ConfigurationError(f"{source}={value}: {problem}") from None
        return converted


def _is_a_service_link(option: Option, text: str) -> bool:
    # Kubernetes gives every pod <SERVICE>_PORT=tcp://10.0.0.1:5006, which for a service called "aperture" is our name.
    return option.name.endswith("port") and text.startswith(("tcp://", "udp://"))


def _as_list(value: object) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return value
    raise ValueError("not a list")


def _as_whole(value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ValueError("not a whole number") from None


def _as_number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ValueError("not a number") from None


def _as_files(value: object) -> list[str] | None:
    """An option that takes files or none is a switch, too, so in the environment a plain yes or no must do."""
    if isinstance(value, str):
        try:
            return [] if as_bool(value) else None
        except ValueError:
            pass
    return _as_list(value)


_CONVERT: dict[Kind, Callable[[object], Any]] = {
    Kind.TEXT: str,
    Kind.WHOLE: _as_whole,
    Kind.NUMBER: _as_number,
    Kind.FLAG: as_bool,
    Kind.LIST: _as_list,
    Kind.REPEATED: _as_list,
    Kind.FILES: _as_files,
    Kind.REST: _as_list,
}


def _check_range(option: Option, value: Any) -> None:
    if option.choices is not None and str(value).lower() not in {choice.lower() for choice in option.choices}:
        raise ValueError(f"must be one of {', '.join(option.choices)}")
    # Written so that NaN fails, too.
    if option.least is not None and not value >= option.least:
        raise ValueError(f"must be {option.least} or more")
    if option.most is not None and not value <= option.most:
        raise ValueError(f"must be {option.most} or less")


def _read_config(path: str) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise ConfigurationError(f"--use-config {path}: {problem}") from problem
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"--use-config {path}: not a mapping of settings")
    return content


def _user_config() -> Mapping[str, Any]:
    from bokeh.settings import settings as bokeh_settings

    # An empty file is read as None.
    return bokeh_settings.config_user if bokeh_settings._config_user else {}
