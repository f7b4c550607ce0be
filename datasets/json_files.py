"""Read JSON files as people write them: any Unicode encoding, and the true reason where one cannot be read."""

import json
from pathlib import Path
from typing import Any

BY_HAND = "correct this place (JSON has no comments, no single quotes, and no comma before a closing bracket)"


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, 16 or 32, with or without a byte order mark.

    Bytes that are not UTF-8 are kept as the file system has them in names. Raises OSError, and ValueError with line and
    column for what is not JSON or gives one key twice.
    """
    content = path.read_bytes()
    if not content.strip():
        raise ValueError(f"{path}: is empty: copy or download it again")
    if content.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: is a pointer of git-lfs, not the file: fetch it with git lfs pull")
    try:
        text = content.decode(json.detect_encoding(content), "surrogateescape")
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {error.lineno} column {error.colno}: {error.msg}: {BY_HAND}") from None
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply: write it again") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice in one place: keep one of them")
    return content
