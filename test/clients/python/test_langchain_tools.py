"""LangChain for Python: tools and answers of a form."""

import pytest
from forms import MODELS, TOOLS, Sum
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

pytestmark = pytest.mark.parametrize("model", MODELS)
QUESTION = "17 @ 5 ="


@pytest.fixture
def chat(base_url, model) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=base_url, model=model, api_key="none",
        temperature=1, seed=3, max_tokens=300, max_retries=0,
    )


def right(message) -> dict:
    assert message.invalid_tool_calls == []
    [call] = message.tool_calls
    TOOLS[call["name"]].model_validate(call["args"])
    return call


def test_any(chat):
    bound = chat.bind_tools(
        list(TOOLS.values()), tool_choice="any", parallel_tool_calls=False
    )
    message = bound.invoke(QUESTION)
    call = right(message)
    result = ToolMessage("22", tool_call_id=call["id"])
    following = bound.invoke([HumanMessage(QUESTION), message, result])
    right(following)
    assert following.usage_metadata["input_tokens"] > message.usage_metadata["input_tokens"]


def test_named(chat):
    for name in TOOLS:
        message = chat.bind_tools(list(TOOLS.values()), tool_choice=name).invoke(QUESTION)
        assert right(message)["name"] == name


def test_auto(chat):
    message = chat.bind_tools(list(TOOLS.values())).invoke(QUESTION, max_tokens=20)
    assert isinstance(message.content, str)


def test_streamed(chat):
    bound = chat.bind_tools(
        list(TOOLS.values()), tool_choice="any", parallel_tool_calls=False
    )
    whole = None
    for chunk in bound.stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert right(whole)["args"] == right(bound.invoke(QUESTION))["args"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured(chat, method):
    for strict in (None, True):
        answer = chat.with_structured_output(Sum, method=method, strict=strict).invoke(QUESTION)
        assert isinstance(answer, Sum)


def test_objects(chat):
    answer = chat.with_structured_output(None, method="json_mode").invoke(
        QUESTION, max_tokens=3000
    )
    assert isinstance(answer, dict)
