"""Who commits."""

from __future__ import annotations

import getpass
import os
from functools import cache


def author() -> str:
    configured = os.environ.get("LAKEFMT_AUTHOR")
    if configured:
        return configured
    return _user()


@cache
def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
