"""One URL for redis-py and for Celery; nothing in it switches a check off, and no error repeats it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nodepool.domain import broker_address
from nodepool.domain.broker_address import (
    BrokerHost,
    BrokerTrust,
    SentinelLogin,
    celery_options,
    parse,
    sentinel_options,
    tls_options,
)
from nodepool.domain.errors import InvalidInputError
from nodepool.settings import Settings

AGENTS = "redis://broker.example:6379/0"
SENTINELS = "sentinel://pool:p%40ss@a,b:26380,[::1]:1/hive/3"


@pytest.mark.parametrize(
    ("text", "host", "tls", "login", "database"),
    [
        ("redis://there", ("there", 6379), False, ("", ""), 0),
        ("redis://:word@there:1/2", ("there", 1), False, ("", "word"), 2),
        ("rediss://ada:a%2Fb%40c@10.0.0.1/", ("10.0.0.1", 6379), True, ("ada", "a/b@c"), 0),
        ("redis://[::1]:7/0", ("::1", 7), False, ("", ""), 0),
    ],
)
def test_a_url_says_where_one_server_is(
    text: str, host: tuple[str, int], tls: object, login: tuple[str, str], database: int
) -> None:
    address = parse(text, "REDIS_URL")
    assert address.hosts == (BrokerHost(*host),)
    assert (address.tls, address.user, address.password, address.database) == (tls, *login, database)
    assert parse(address.url, "again") == address
    assert address.celery_url == address.url


def test_a_url_says_where_the_sentinels_are_and_what_they_call_the_master() -> None:
    address = parse(SENTINELS, "REDIS_URL")
    assert address.hosts == (BrokerHost("a", 26379), BrokerHost("b", 26380), BrokerHost("::1", 1))
    assert (address.service, address.database, address.password, address.tls) == ("hive", 3, "p@ss", False)
    assert parse(address.url, "again") == address
    assert parse("sentinels://a/hive", "REDIS_URL").tls
    # Whichever of them kombu goes on with, it needs the login and the database.
    assert address.celery_url == (
        "sentinel://pool:p%40ss@a:26379/3;sentinel://pool:p%40ss@b:26380/3;sentinel://pool:p%40ss@[::1]:1/3"
    )
    assert "p%40ss" not in address.shown


@pytest.mark.parametrize(
    "text",
    [
        "", "there:6379", "http://there", "unix:///run/redis.sock", "redis://", "redis://there:port",
        "redis://there/zero", "redis://there/0/1", "redis://a,b/0", "sentinel://a,b", "sentinel://a/?",
        "sentinel://,/hive", "redis://th ere",
        "rediss://u:secret@there?ssl_cert_reqs=none", "rediss://u:secret@there/0?ssl_check_hostname=false",
        "rediss://u:secret@there/0#fragment", "sentinel://u:secret@a/hive?sentinel_ssl=0",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_by_its_settings_name_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidInputError, match="THE_NAME") as told:
        parse(text, "THE_NAME")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("trust", [BrokerTrust(), BrokerTrust(ca_file="ca.pem"), BrokerTrust(ca_pem="PEM")])
def test_tls_is_always_checked_with_every_authority(trust: BrokerTrust) -> None:
    told = tls_options(parse("rediss://there", "x"), trust)
    assert (told["ssl_cert_reqs"], told["ssl_check_hostname"]) == ("required", True)
    assert celery_options(parse("rediss://there", "x"), trust)["broker_use_ssl"] == told
    sentinels = parse("sentinels://a/hive", "x")
    asked = celery_options(sentinels, trust)["broker_transport_options"]["sentinel_kwargs"]
    assert told.items() <= asked.items()
    assert asked["ssl"] is True


def test_plain_text_has_no_options_of_tls() -> None:
    assert tls_options(parse("redis://there", "x"), BrokerTrust()) == {}
    assert celery_options(parse("redis://there", "x"), BrokerTrust())["broker_use_ssl"] is False


def test_sentinels_have_a_login_of_their_own() -> None:
    address = parse(SENTINELS, "x")
    told = sentinel_options(address, BrokerTrust(), SentinelLogin(user="watch", password="word"))
    assert (told["username"], told["password"], told.get("ssl")) == ("watch", "word", None)
    assert {"username", "password"} & sentinel_options(
        address, BrokerTrust(), SentinelLogin()
    ).keys() == set()


def test_celery_prefers_none_of_its_own_variables() -> None:
    told = celery_options(parse(SENTINELS, "x"), BrokerTrust())
    assert told["broker_url"] == told["broker_read_url"] == told["broker_write_url"]
    assert told["broker_transport_options"]["master_name"] == "hive"


def test_agents_get_an_address_without_anybodys_login() -> None:
    assert broker_address.parse_for_agents("rediss://u:p@there/1", "x").url == "rediss://there:6379/1"
    with pytest.raises(InvalidInputError, match="follows the master"):
        broker_address.parse_for_agents(SENTINELS, "x")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"redis_url": "redis://a", "celery_broker_url": "redis://b"}, "two brokers"),
        ({"redis_url": "redis://a", "redis_ca_file": "ca.pem"}, "need TLS"),
        ({"redis_url": "rediss://a", "redis_cert_file": "c.pem"}, "go together"),
        ({"redis_url": "redis://a", "agent_redis_ca_file": "ca.pem"}, "AGENT_REDIS_CA_FILE needs TLS"),
        ({"redis_url": "sentinel://a/hive"}, "AGENT_REDIS_URL must be set"),
        ({"redis_url": "redis://a/1", "agent_redis_url": AGENTS}, "must be one"),
        ({"redis_url": "rediss://u:secret@a?ssl_cert_reqs=none"}, "question mark"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_words(given: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as told:
        Settings.model_validate(given)
    assert "secret" not in str(told.value)


def test_celerys_own_name_of_the_broker_does_where_it_is_the_only_one() -> None:
    settings = Settings.model_validate({"celery_broker_url": "redis://a/0"})
    assert settings.broker.url == "redis://a:6379/0"
    same = Settings.model_validate({"celery_broker_url": "redis://a/0", "redis_url": "redis://a/0"})
    assert same.broker == settings.broker
