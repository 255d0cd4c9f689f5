"""The names of keys and channels."""

from __future__ import annotations

import pytest

from aperture.bus.names import Names, is_namespace


def test_everything_carries_the_namespace() -> None:
    """Two installations in one Redis never meet."""
    one, other = Names("one"), Names("other")
    for attribute in ("workers", "epoch", "born", "seasoned"):
        assert getattr(one, attribute).startswith("aperture:one:")
        assert getattr(one, attribute) != getattr(other, attribute)
    for method in ("channel", "inbox", "session", "stream", "stored", "journal"):
        assert getattr(one, method)("x").startswith("aperture:one:")
        assert getattr(one, method)("x") != getattr(other, method)("x")


def test_the_form_of_every_name_is_pinned() -> None:
    """Another form needs another wire version: nodes of one version find each other's keys."""
    names = Names("n")
    assert names.channel("k") == "aperture:n:v2:patches:k"
    assert names.inbox("w") == "aperture:n:v2:inbox:w"
    assert names.orders("w") == "aperture:n:v2:orders:w"
    assert names.figures("w") == "aperture:n:v2:figures:w"
    assert names.questions("w") == "aperture:n:v2:questions:w"
    assert names.session("k") == "aperture:n:v2:session:k"
    assert names.stream("k") == "aperture:n:v2:stream:k"
    assert names.stored("k") == "aperture:n:v2:kept:k"
    assert names.journal("k") == "aperture:n:v2:journal:k"
    assert (names.workers, names.epoch) == ("aperture:n:v2:workers", "aperture:n:v2:epoch")
    assert (names.born, names.seasoned) == ("aperture:n:v2:born", "aperture:n:v2:seasoned")


def test_no_name_of_two_wire_versions_is_the_same() -> None:
    """Nodes of different versions share a Redis and a namespace, and nothing in it."""
    one, other = Names("n", version=1), Names("n", version=2)
    for attribute in ("workers", "epoch", "born", "seasoned"):
        assert getattr(one, attribute) != getattr(other, attribute)
    for method in ("channel", "inbox", "orders", "figures", "questions", "session", "stream", "stored", "journal"):
        assert getattr(one, method)("x") != getattr(other, method)("x")


def test_no_two_purposes_share_a_name() -> None:
    """A session that is called like a worker is still a session."""
    names = Names("n")
    made = [names.channel("x"), names.inbox("x"), names.session("x"), names.stream("x")]
    made += [names.stored("x"), names.journal("x")]
    assert len({*made, names.workers, names.epoch, names.born, names.seasoned}) == 10


@pytest.mark.parametrize("text", ["", "a:b", "a b", "a{b}", "x" * 65, "ä", "a\n"])
def test_what_would_break_a_key_is_no_namespace(text: str) -> None:
    """A colon would let one namespace reach into another, braces would move keys within a cluster."""
    assert not is_namespace(text)


@pytest.mark.parametrize("text", ["default", "prod-1", "a.b_c", "X" * 64])
def test_ordinary_names_are_namespaces(text: str) -> None:
    """What people call their installations."""
    assert is_namespace(text)
