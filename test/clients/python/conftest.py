"""The demo server, started by the test that runs these files."""

import json
import os

import openai
import pytest


@pytest.fixture(scope="session")
def base_url() -> str:
    return os.environ["LORAMUX_URL"] + "/v1"


@pytest.fixture(scope="session")
def client(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def questions() -> list[dict]:
    """model, prompt and answer: one question for the base and for each adapter."""
    return json.loads(os.environ["LORAMUX_QUESTIONS"])
