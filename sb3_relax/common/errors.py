"""Errors of whoever calls: the command lines print them without a traceback, and no others, which may be bugs."""

from __future__ import annotations


class UsageError(ValueError):
    """What the caller gave cannot be used, whatever the code does; the message says what can."""


class AgentNotFound(FileNotFoundError):
    """There is no trained agent where one was asked for; the message says where that was."""
