"""The Hugging Face Hub without a network: one request instead of a minute of retries."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import get_session

HUB_PATIENCE = 5  # seconds


@functools.lru_cache(1)
def hub_answers(endpoint: str, minute: float) -> bool:
    """Return whether the Hub answers one request in time. It is cached for one minute."""
    answers: list[Any] = []

    def ask():
        with suppress(Exception):  # the client and HTTP raise many types
            answers.append(get_session().head(endpoint, timeout=HUB_PATIENCE))

    thread = Thread(target=ask, daemon=True)  # because a look-up of the host has no timeout
    thread.start()
    thread.join(HUB_PATIENCE)
    return bool(answers)


@contextmanager
def cached_if_offline() -> Iterator[None]:
    """Use the Hub's local cache only, within the block, if the Hub does not answer.

    An OSError in the block is then a ConnectionError with one line.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not hub_answers(constants.ENDPOINT, time.time() // 60)
    try:
        yield
    except OSError as error:
        if constants.HF_HUB_OFFLINE == before:
            raise
        raise ConnectionError(f"{constants.ENDPOINT} does not answer, and the local cache of the "
                              "Hub lacks it; check the network") from error
    finally:
        constants.HF_HUB_OFFLINE = before
