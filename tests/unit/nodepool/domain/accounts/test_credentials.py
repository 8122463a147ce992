"""Which names and passwords are accepted, and which names are too much alike."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.accounts.credentials import (
    COMMON_PASSWORDS,
    MAX_PASSWORD_BYTES,
    MIN_PASSWORD_LENGTH,
    RESERVED_WORDS,
    check_new_password,
    check_new_username,
    check_password,
    check_username,
    is_username,
    name_key,
)
from nodepool.domain.errors import InvalidInputError


@pytest.mark.parametrize(
    "name",
    ["ada", "Ada.Lovelace", "ada@example.org", "ada+pool", "ada_1", "曾曉薇", "Zoë", "the-pool", "1st"],
)
def test_names_of_people_are_accepted(name: str) -> None:
    assert check_new_username(name) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("ab", id="short"),
        pytest.param("x" * 65, id="long"),
        pytest.param("a b", id="blank"),
        pytest.param("ada/one", id="slash"),
        pytest.param("ada\n", id="line"),
        pytest.param("a\0da", id="NUL"),
        pytest.param("ad\u200da", id="joiner"),
        pytest.param("ad\u202ea", id="direction"),
        pytest.param(".ada", id="dot first"),
        pytest.param("*ada", id="star"),
    ],
)
def test_what_is_no_name_is_refused_with_the_rule(name: str) -> None:
    assert not is_username(name)
    with pytest.raises(InvalidInputError, match="username must be 3 to 64"):
        check_new_username(name)


@pytest.mark.parametrize("name", ["ada.", "ada-", "_ada", "ada_"])
def test_a_new_name_begins_and_ends_with_a_letter_or_digit(name: str) -> None:
    check_username(name)  # who has it already keeps it
    with pytest.raises(InvalidInputError, match="begin and end with a letter or digit"):
        check_new_username(name)


@pytest.mark.parametrize(("name", "plain"), [("Ａda", "Ada"), ("ﬁona", "fiona"), ("adaⅣ", "adaIV")])
def test_a_name_in_letters_that_look_like_others_is_told_how_to_write_it(name: str, plain: str) -> None:
    with pytest.raises(InvalidInputError, match=f"write it as '{plain}'"):
        check_new_username(name)


@pytest.mark.parametrize(
    "name",
    ["admin", "ADMIN", "Admin1", "escrow", "fee", "mint", "pool", "system", "operator", "pool.support",
     "admin-2", "system_root", "роol", "hivemind-operator", "аdmin"],
)  # fmt: skip
def test_names_that_could_be_the_pools_own_are_reserved(name: str) -> None:
    check_username(name)
    with pytest.raises(InvalidInputError, match="could be taken for the pool's own"):
        check_new_username(name)


def test_every_reserved_word_is_spelled_as_it_is_compared() -> None:
    assert [word for word in RESERVED_WORDS if name_key(word) != word] == []


@pytest.mark.parametrize("other", ["ada", "ADA", "Ada", "ada.", "ada-", "аda", "аԁа", "Ａda", "ada_"])
def test_names_that_people_take_for_one_another_have_one_key(other: str) -> None:
    assert name_key(other) == name_key("ada")


@pytest.mark.parametrize(
    ("one", "other"), [("ada", "ida"), ("ada1", "ada2"), ("a.da", "ada"), ("ada", "adä")]
)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)


@given(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=64))
def test_a_key_is_its_own_key(name: str) -> None:
    key = name_key(name)
    assert key
    assert name_key(key) == key


# -- passwords -----------------------------------------------------------------------------------------
def test_a_good_password_is_accepted() -> None:
    assert check_new_password("a good password", "ada") == "a good password"


@pytest.mark.parametrize(
    ("password", "rule"),
    [
        ("x" * (MIN_PASSWORD_LENGTH - 1), f"at least {MIN_PASSWORD_LENGTH} characters"),
        ("xyzü" * 18 + "x", f"at most {MAX_PASSWORD_BYTES} bytes"),
        ("good\0password", "NUL"),
        ("Lovelace1815", "must not be the username"),
        ("lovelace1815.", "must not be the username"),
        ("Password1", "first that anybody would try"),
        ("1q2w3e4r", "first that anybody would try"),
        ("abcabcabc", "4 different characters"),
        ("AaAaAaAaAa", "4 different characters"),
    ],
)
def test_a_password_that_breaks_a_rule_is_refused_with_the_rule(password: str, rule: str) -> None:
    with pytest.raises(InvalidInputError, match=rule):
        check_new_password(password, "lovelace1815")


def test_the_common_ones_are_long_enough_to_need_a_list_and_spelled_as_compared() -> None:
    for password in COMMON_PASSWORDS:
        assert password == password.casefold()
        assert check_password(password)
