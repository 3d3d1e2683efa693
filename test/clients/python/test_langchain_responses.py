"""LangChain for Python: responses."""

import openai
import pytest
from forms import QUESTION
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI


def exact(base_url: str, model: str) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=base_url, model=model, api_key="none", use_responses_api=True,
        temperature=0, max_tokens=2, max_retries=0,
    )


def test_invoke(base_url, questions):
    for question in questions:
        message = exact(base_url, question["model"]).invoke(question["prompt"])
        assert message.text == question["answer"]
        assert message.usage_metadata["output_tokens"] == 2


def test_stream(base_url, questions):
    for question in questions:
        chunks = exact(base_url, question["model"]).stream(question["prompt"])
        assert "".join(chunk.text for chunk in chunks) == question["answer"]


def test_next_turn(base_url):
    chat = exact(base_url, "subtract")
    question = HumanMessage(QUESTION)
    first = chat.invoke([question])
    second = chat.invoke([question, first, question])
    assert second.usage_metadata["input_tokens"] > 2 * first.usage_metadata["input_tokens"]


def test_errors(base_url):
    with pytest.raises(openai.NotFoundError):
        exact(base_url, "nobody").invoke("1 @ 1 =")
