"""LangChain for Python: responses."""

import openai
import pytest
from forms import MODELS, TOOLS, Sum
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

QUESTION = "17 @ 5 ="
each_model = pytest.mark.parametrize("model", MODELS)


def exact(base_url: str, model: str) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=base_url, model=model, api_key="none", use_responses_api=True,
        temperature=0, max_tokens=2, max_retries=0,
    )


@pytest.fixture
def chat(base_url, model) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=base_url, model=model, api_key="none", use_responses_api=True,
        temperature=1, max_tokens=300, max_retries=0, extra_body={"seed": 3},
    )


def right(message) -> dict:
    assert message.invalid_tool_calls == []
    [call] = message.tool_calls
    TOOLS[call["name"]].model_validate(call["args"])
    return call


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


@each_model
def test_any(chat):
    bound = chat.bind_tools(list(TOOLS.values()), tool_choice="any", parallel_tool_calls=False)
    message = bound.invoke(QUESTION)
    call = right(message)
    result = ToolMessage("22", tool_call_id=call["id"])
    following = bound.invoke([HumanMessage(QUESTION), message, result])
    right(following)
    assert following.usage_metadata["input_tokens"] > message.usage_metadata["input_tokens"]


@each_model
def test_named(chat):
    for name in TOOLS:
        message = chat.bind_tools(list(TOOLS.values()), tool_choice=name).invoke(QUESTION)
        assert right(message)["name"] == name


@each_model
def test_auto(chat):
    message = chat.bind_tools(list(TOOLS.values())).invoke(QUESTION, max_tokens=20)
    assert isinstance(message.text, str)


@each_model
def test_streamed(chat):
    bound = chat.bind_tools(list(TOOLS.values()), tool_choice="any", parallel_tool_calls=False)
    whole = None
    for chunk in bound.stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert right(whole)["args"] == right(bound.invoke(QUESTION))["args"]


@each_model
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured(chat, method):
    for strict in (None, True):
        answer = chat.with_structured_output(Sum, method=method, strict=strict).invoke(QUESTION)
        assert isinstance(answer, Sum)
