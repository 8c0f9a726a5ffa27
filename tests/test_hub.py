"""A hub that does not answer is asked once, and its libraries are kept from asking again and again.

tests/hub asks a hub with the hub's own clients.
"""

import huggingface_hub
import pytest
from huggingface_hub import constants

from seqdpo import hub

HUB_ANSWERS = hub.hub_answers  # the other tests have none
ASKED = ("model", "someone/model", None)


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "hub_answers", HUB_ANSWERS)
    for asked in (HUB_ANSWERS, hub._asked):
        asked.cache_clear()
    yield
    for asked in (HUB_ANSWERS, hub._asked):
        asked.cache_clear()


class Session:
    """The hub's HTTP client; counts what it is asked."""

    def __init__(self, error=None):
        self.asked = 0
        self.error = error

    def head(self, url, timeout):
        self.asked += 1
        if self.error is not None:
            raise self.error


class Api:
    """The hub's client; counts what it is asked."""

    def __init__(self, error=None):
        self.asked = 0
        self.error = error

    def repo_info(self, *arguments, **options):
        self.asked += 1
        if self.error is not None:
            raise self.error


def use(monkeypatch, session, api):
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    return session, api


def test_a_hub_that_does_not_answer_is_asked_once_and_only_the_cache_is_read(monkeypatch):
    session, api = use(monkeypatch, Session(OSError("Name or service not known")), Api())
    for _ in range(2):
        with hub.hub_or_cache(*ASKED):
            assert constants.HF_HUB_OFFLINE
        assert not constants.HF_HUB_OFFLINE
    assert (session.asked, api.asked) == (1, 0)


def test_a_repository_that_the_hub_does_not_answer_for_is_asked_for_once(monkeypatch):
    session, api = use(monkeypatch, Session(), Api(TimeoutError()))
    for _ in range(2):
        with hub.hub_or_cache(*ASKED):
            assert constants.HF_HUB_OFFLINE
    assert (session.asked, api.asked) == (1, 1)


def test_a_hub_that_answers_is_used(monkeypatch):
    use(monkeypatch, Session(), Api())
    with hub.hub_or_cache(*ASKED):
        assert not constants.HF_HUB_OFFLINE


def test_what_the_client_does_not_understand_is_left_to_the_libraries(monkeypatch):
    use(monkeypatch, Session(), Api(ValueError("a mirror answers in its own way")))
    with hub.hub_or_cache(*ASKED):
        assert not constants.HF_HUB_OFFLINE


def test_a_user_who_is_offline_by_choice_is_not_asked_for(monkeypatch):
    session, api = use(monkeypatch, Session(), Api())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub.hub_or_cache(*ASKED):
        assert constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_OFFLINE
    assert (session.asked, api.asked) == (0, 0)
