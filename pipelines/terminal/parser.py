"""The command-line parser: reports errors in one line, and adds a command's arguments only when they are needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from ...transforms.failures import UsageError


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, without the usage text."""

    def __init__(self, *args: Any, arguments: Callable[[Parser], None] | None = None, **kwargs: Any):
        """arguments: adds the parser's own arguments when they are first needed. Their imports may take long, and only
        one of a dozen commands is run."""
        super().__init__(*args, **kwargs)
        self.bare_options: dict[str, str] = {}
        """Options that take a value only after `=`, and the value if there is none. With argparse's own `nargs="?"`, a
        source that follows the option would become its value."""
        self._add_arguments = arguments

    def _complete(self) -> None:
        add, self._add_arguments = self._add_arguments, None
        if add is not None:
            add(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._complete()
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)
        args[:end] = [f"{arg}={self.bare_options[arg]}" if arg in self.bare_options else arg for arg in args[:end]]
        return super().parse_known_args(args, namespace)

    def format_usage(self) -> str:
        self._complete()
        return super().format_usage()

    def format_help(self) -> str:
        self._complete()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        where = f"; see `{self.prog} -h`" if self.prog.startswith("deephotlink") else ""
        raise UsageError(f"{message}{where}")
