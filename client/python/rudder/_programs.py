"""Where the programs ``rudder`` and ``rudderd`` lie. A wheel installs them beside this environment's Python."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

__all__ = ["find_program"]


def find_program(name: str) -> str:
    """Find one of Rudder's programs.

    Parameters
    ----------
    name : str
        ``"rudder"`` or ``"rudderd"``.

    Returns
    -------
    str
        Its path: in the folder that ``$RUDDER_BIN_DIR`` names, else where pip puts this environment's or this user's programs, else in
        ``$PATH``.

    Raises
    ------
    FileNotFoundError
        If it is nowhere.
    """
    named = os.environ.get("RUDDER_BIN_DIR")
    schemes = (None, f"{os.name}_user")
    folders = [named] if named else [sysconfig.get_path("scripts", scheme) if scheme else sysconfig.get_path("scripts") for scheme in schemes]
    for folder in folders:
        path = Path(folder) / name
        if os.access(path, os.X_OK):
            return str(path)
    found = None if named else shutil.which(name)
    if found is None:
        where = named or f"{', '.join(folders)} and $PATH"
        raise FileNotFoundError(f"the program {name} is not in {where}: install the wheel `rudder-gnn`, or name its folder in $RUDDER_BIN_DIR")
    return found
