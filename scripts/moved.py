"""Prints where a command is now. The names that commands had in the last release are links to this file."""

import sys
from pathlib import Path

name = Path(sys.argv[0]).name
for place in Path(__file__).resolve().parent.glob(f"*/{name}"):
    print(f"{name}: this command has moved: run python scripts/{place.parent.name}/{name}", file=sys.stderr)
sys.exit(2)
