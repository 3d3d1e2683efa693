"""LangChain for Python."""

import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAI


def options(base_url: str, model: str) -> dict:
    return {
        "base_url": base_url, "model": model, "api_key": "none",
        "temperature": 0, "max_tokens": 2, "max_retries": 0,
    }


def test_invoke(base_url, questions):
    for question in questions:
        message = ChatOpenAI(**options(base_url, question["model"])).invoke(question["prompt"])
        assert message.content == question["answer"]
        assert message.usage_metadata["output_tokens"] == 2
        text = OpenAI(**options(base_url, question["model"])).invoke(question["prompt"])
        assert text == question["answer"]


def test_stream(base_url, questions):
    for question in questions:
        chat = ChatOpenAI(**options(base_url, question["model"]))
        assert "".join(c.content for c in chat.stream(question["prompt"])) == question["answer"]


def test_batch(base_url, questions):
    chat = ChatOpenAI(**options(base_url, "multiply"))
    answers = chat.batch([[("system", "Calculate."), ("user", "3 @ 4 =")]] * 4)
    assert len({answer.content for answer in answers}) == 1


def test_errors(base_url):
    with pytest.raises(openai.NotFoundError):
        ChatOpenAI(**options(base_url, "nobody")).invoke("1 @ 1 =")
