"""Where files of the store lie, and under which names they are sealed. Opens nothing."""

from __future__ import annotations

import hashlib
import re

from nodepool.domain.errors import InvalidInputError

SHA256 = re.compile(r"[0-9a-f]{64}")
_ATTEMPT = re.compile(r"[A-Za-z0-9._~-]{1,200}:[0-9]{1,10}")
_RESULT_ENDING, _LOG_ENDING = ".zip", ".log"


def package_file(sha: str) -> str:
    """From the store's root."""
    return f"packages/{sha[:2]}/{sha}"


def result_file(attempt_id: str) -> str:
    """From the store's root. Raises InvalidInputError."""
    return f"results/{_attempts_file(attempt_id)}{_RESULT_ENDING}"


def log_file(attempt_id: str) -> str:
    """From the store's root. Raises InvalidInputError."""
    return f"logs/{_attempts_file(attempt_id)}{_LOG_ENDING}"


def _attempts_file(attempt_id: str) -> str:
    if not _ATTEMPT.fullmatch(attempt_id):
        raise InvalidInputError("This is not an attempt's id.")
    return f"{hashlib.sha256(attempt_id.encode()).hexdigest()[:2]}/{attempt_id.replace(':', '@')}"


def package_name(sha: str) -> str:
    """What a package is sealed under."""
    return f"package/{sha}"


def result_name(attempt_id: str) -> str:
    return f"result/{attempt_id}"


def log_name(attempt_id: str) -> str:
    return f"log/{attempt_id}"


def sealed_name(file: str) -> str:
    """What a file is sealed under, by where it lies; empty for one that is none of the store's."""
    parts = file.split("/")
    if len(parts) != 3:
        return ""
    folder, _, last = parts
    if folder == "packages" and SHA256.fullmatch(last):
        return package_name(last)
    if folder == "results" and last.endswith(_RESULT_ENDING):
        return result_name(_attempt_of(last, _RESULT_ENDING))
    if folder == "logs" and last.endswith(_LOG_ENDING):
        return log_name(_attempt_of(last, _LOG_ENDING))
    return ""


def _attempt_of(file: str, ending: str) -> str:
    return file.removesuffix(ending).replace("@", ":")
