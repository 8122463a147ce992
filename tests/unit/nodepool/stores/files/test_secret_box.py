"""A sealed secret opens for its user, under its name, with its key, and no other way."""

from __future__ import annotations

import pytest

from nodepool.domain.errors import CorruptFileError
from nodepool.stores.files.encryption import key_from_secret
from nodepool.stores.files.secret_box import SecretBox

VALUE = "päss\nword\n"
BOX = SecretBox(key_from_secret("one"), may_seal=True)
OTHER_KEY = SecretBox(key_from_secret("two"), may_seal=True)


def test_what_is_sealed_opens_and_shows_nothing() -> None:
    sealed = BOX.seal(7, "TOKEN", VALUE)
    assert BOX.open(7, "TOKEN", sealed) == VALUE
    assert VALUE.encode() not in sealed
    assert sealed != BOX.seal(7, "TOKEN", VALUE)
    assert BOX.opens(7, "TOKEN", sealed)


@pytest.mark.parametrize(
    ("box", "user_id", "name"), [(BOX, 8, "TOKEN"), (BOX, 7, "TOKEN2"), (OTHER_KEY, 7, "TOKEN")]
)
def test_a_row_in_anothers_place_or_of_another_key_gives_nothing(
    box: SecretBox, user_id: int, name: str
) -> None:
    sealed = BOX.seal(7, "TOKEN", VALUE)
    assert not box.opens(user_id, name, sealed)
    with pytest.raises(CorruptFileError):
        box.open(user_id, name, sealed)


def test_one_that_was_changed_does_not_open() -> None:
    sealed = BOX.seal(7, "TOKEN", VALUE)
    for broken in (sealed[:-1], sealed[:-1] + b"\0", b"", sealed[:20]):
        with pytest.raises(CorruptFileError):
            BOX.open(7, "TOKEN", broken)
