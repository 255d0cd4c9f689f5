"""A folder of this user's own at a known path, which cleaners of temporary files may take away at any time.

The path is known to all who can read a command line, and lies where every user may write: when our folder is gone, the
one that is found there later may be another user's. So it is looked at before it is believed in.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path

__all__ = ["is_private", "make_private", "remove_folder"]

_TRIES, _PAUSE = 20, 0.01
"""How often a folder is removed that is written to meanwhile, and the seconds in between: a write takes a few
milliseconds, and a process begins none once it knows that its node has ended."""


def is_private(path: Path) -> bool:
    """Whether there is a folder that only this user, whose it is, can enter."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def make_private(path: Path) -> None:
    """Make the folder again, and what it lies in, unless it is there.

    Raises:
        OSError: it cannot be made, or what is there is not this user's alone.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not is_private(path):
            raise PermissionError(f"{path} is not a folder of this user's own") from None


def remove_folder(path: Path) -> None:
    """Remove the folder, in which a process may be making a file just now, of those that still take it for needed.

    Removing it fails then with some files gone already, among them those by which others would know whose the rest is.
    """
    for _ in range(_TRIES):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(_PAUSE)
