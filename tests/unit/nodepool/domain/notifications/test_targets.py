"""Which URLs and addresses are targets of notifications."""

from __future__ import annotations

import pytest

from nodepool.domain.errors import InvalidInputError, NotFoundError
from nodepool.domain.notifications import targets
from nodepool.domain.notifications.targets import TargetKind, target_of, wanted_targets, webhook_of


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("https://example.org", "example.org", 443, "/", "example.org"),
        ("https://example.org/a/b?c=d", "example.org", 443, "/a/b?c=d", "example.org"),
        ("HTTPS://Example.ORG:8443/x", "example.org", 8443, "/x", "example.org:8443"),
        ("http://192.0.2.7:8080", "192.0.2.7", 8080, "/", "192.0.2.7:8080"),
        ("http://[2001:db8::7]:8080/x", "2001:db8::7", 8080, "/x", "[2001:db8::7]:8080"),
        ("https://[2001:db8::7]", "2001:db8::7", 443, "/", "[2001:db8::7]"),
    ],
)
def test_a_webhook_is_read(url: str, host: str, port: int, path: str, authority: str) -> None:
    found = webhook_of(url)
    assert (found.host, found.port, found.path, found.authority) == (host, port, path, authority)
    assert target_of(url).kind is TargetKind.WEBHOOK
    assert target_of(url).receiver == f"{host}:{port}"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "visible ASCII"),
        ("example.org/hook", "https://HOST"),
        ("ftp://example.org/", "https://HOST"),
        ("file:///etc/passwd", "https://HOST"),
        ("https:example.org", "https://HOST"),
        ("https:///path", "https://HOST"),
        ("https://user@example.org/", "user and password"),
        ("https://user:secret@example.org/", "user and password"),
        ("https://example.org@192.0.2.7/", "user and password"),
        ("https://example.org/#part", "neither #"),
        ("https://example.org\\@192.0.2.7/", "user and password"),
        ("https://example.org/a\\b", "backslash"),
        ("https://example.org:0/", "port 80, 443"),
        ("https://example.org:25/", "port 80, 443"),
        ("https://example.org:1023/", "port 80, 443"),
        ("https://example.org:65536/", "cannot be read"),
        ("https://example.org:x/", "cannot be read"),
        ("https://localhost/", "localhost"),
        ("https://a.localhost./", "localhost"),
        ("http://2130706433/", "four decimal numbers"),
        ("http://0x7f.1/", "four decimal numbers"),
        ("http://0177.0.0.1/", "four decimal numbers"),
        ("http://127.1/", "four decimal numbers"),
        ("http://[fe80::1%25eth0]/", "without a zone"),
        ("http://[::1/", "cannot be read"),
        ("https://exa mple.org/", "visible ASCII"),
        ("https://example.org/\r\nHost: other", "visible ASCII"),
        ("https://ex\u00e4mple.org/", "visible ASCII"),
        ("https://example.org/" + "x" * 2000, "2000"),
        ("https://-x-.org/", "address or a DNS name"),
    ],
)
def test_what_is_no_webhook_is_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        target_of(url)


@pytest.mark.parametrize(
    "address", ["ada@example.org", "ada.lovelace+pool@mail.example.org", "a_b=c-d@x.co", "MAILTO"]
)
def test_a_mail_address_is_read(address: str) -> None:
    if address == "MAILTO":
        assert target_of("MAILTO:Ada@Example.org").url == "mailto:Ada@Example.org"
        return
    found = target_of(f"mailto:{address}")
    assert (found.kind, found.receiver) == (TargetKind.MAIL, address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "ada@localhost",
        "ada@192.0.2.7",
        "ada@example.org,eve@example.org",
        "ada@example.org;eve@example.org",
        "ada@example.org?bcc=eve@example.org",
        "ada@example.org%0d%0aBcc:eve@example.org",
        "ada%40x@example.org",
        "<ada@example.org>",
        "ada..b@example.org",
        ".ada@example.org",
        "a" * 65 + "@example.org",
        "ada@" + "x" * 250 + ".org",
        "ada@exam_ple.org",
    ],
)
def test_what_is_no_one_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidInputError, match="mailto:NAME@DOMAIN"):
        target_of(f"mailto:{address}")


@pytest.mark.parametrize("name", ["phone", "a", "A.b-c_9", "x" * 64])
def test_a_name_is_taken(name: str) -> None:
    assert targets.check_target_name(name) == name


@pytest.mark.parametrize("name", ["", "-x", "x-", "two words", "a/b", "x" * 65, "\u00e9", "a\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="target's name"):
        targets.check_target_name(name)


def test_a_task_names_few_targets_each_once() -> None:
    assert wanted_targets(["a", "b", "a"]) == ("a", "b")
    with pytest.raises(InvalidInputError, match="at most 5"):
        wanted_targets("abcdef"[index] for index in range(6))
    with pytest.raises(InvalidInputError, match="list of names"):
        wanted_targets("phone")


def test_targets_of_a_task_are_set_and_confirmed() -> None:
    targets.check_are_set(["a"], ["a", "b"], ["b"])
    with pytest.raises(NotFoundError, match=r"no target c .* a, b; `hivemind notify set c URL`"):
        targets.check_are_set(["c"], ["b", "a"], [])
    with pytest.raises(InvalidInputError, match="hivemind notify confirm b CODE"):
        targets.check_are_set(["b"], ["a", "b"], ["b"])
