"""The `npo` command of a checkout: its flows and tasks are imported by working directory, not installed."""

import importlib
import sys
from pathlib import Path


def main() -> None:
    """Run `flows.cli` of the project in this folder, or of the checkout that this package was installed from."""
    for folder in (Path(__file__).parents[1], Path.cwd()):
        if (folder / "flows" / "cli.py").exists():
            sys.path.insert(0, str(folder))
            importlib.import_module("flows.cli").app()
            return
    sys.exit(
        "npo needs the project's flows: run it in a checkout. The installed package npo_core is the library alone."
    )


if __name__ == "__main__":
    main()
