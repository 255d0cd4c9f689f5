"""What `deploy/Dockerfile` says, so that tests can do it without a Docker engine."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ROOT", "Stage", "ignored", "programs", "stages"]

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
_PROGRAMS = Path("/own/usr/local/bin")


@dataclass
class Stage:
    """The instructions after one FROM."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """The arguments of every instruction of that name."""
        return [said for instruction, said in self.instructions if instruction == name]

    def one(self, name: str) -> str:
        """The arguments of the only one."""
        (said,) = self.all(name)
        return said

    def command(self, name: str) -> list[str]:
        """The words of an instruction in its exec form, without a shell; flags before it are passed over."""
        words = json.loads(re.sub(r"^.*?(?=\[)", "", self.one(name)))
        assert all(isinstance(word, str) for word in words), words
        return list(words)

    def copies(self) -> list[tuple[list[str], str]]:
        """What is copied from the build context, and where to."""
        found = []
        for said in self.all("COPY"):
            words = shlex.split(said)
            if not words[0].startswith("--from"):
                found.append((words[:-1], words[-1]))
        return found

    def environment(self) -> dict[str, str]:
        """The variables that it sets."""
        return dict(word.split("=", 1) for said in self.all("ENV") for word in shlex.split(said))


def stages() -> list[Stage]:
    """The stages of the Dockerfile, the image's own last."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    found: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, said = line.split(None, 1)
        if instruction == "FROM":
            found.append(Stage(said))
        elif found:
            found[-1].instructions.append((instruction, said.strip()))
    return found


def programs() -> dict[str, str]:
    """The files of the repository that the image has as programs, by the names that they have there."""
    *_, build, _ = stages()
    return {Path(target).name: source for (source, *_), target in build.copies() if Path(target).parent == _PROGRAMS}


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path of the repository from the build; the last pattern that fits decides."""
    outcome = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep, pattern = pattern.startswith("!"), pattern.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        prefixes = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        tails = [*prefixes, *parts] if line.startswith("**/") else prefixes
        if any(fnmatch.fnmatch(tail, pattern) for tail in tails):
            outcome = not keep
    return outcome
