"""OpenAI's own client for Python: tools and answers of a form."""

import json

import openai
import pytest
from forms import MODELS, ONE, QUESTION, TOOLS, Colour, Sum

TURN = {"role": "user", "content": QUESTION}
DECLARED = [
    {"type": "function", "function": {"name": name, "parameters": form.model_json_schema()}}
    for name, form in TOOLS.items()
]

pytestmark = pytest.mark.parametrize("model", MODELS)


def asked(model: str) -> dict:
    return {
        "model": model, "messages": [TURN], "max_completion_tokens": 300,
        "temperature": 1, "seed": 3,
    }


def right(call) -> str:
    assert call.type == "function" and call.id
    TOOLS[call.function.name].model_validate_json(call.function.arguments)
    return call.function.name


def test_required(client, model):
    answer = client.chat.completions.create(**asked(model), tools=DECLARED, n=3, **ONE)
    assert len(answer.choices) == 3
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        [call] = choice.message.tool_calls
        right(call)


def test_named(client, model):
    for name in TOOLS:
        answer = client.chat.completions.create(
            **asked(model), tools=DECLARED,
            tool_choice={"type": "function", "function": {"name": name}},
        )
        [call] = answer.choices[0].message.tool_calls
        assert right(call) == name


def test_auto(client, model):
    body = asked(model) | {"max_completion_tokens": 20}
    [choice] = client.chat.completions.create(**body, tools=DECLARED, tool_choice="auto").choices
    assert choice.message.tool_calls or isinstance(choice.message.content, str)


def test_next_turn(client, model):
    first = client.chat.completions.create(**asked(model), tools=DECLARED, **ONE)
    [call] = first.choices[0].message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "22"}
    turns = [TURN, first.choices[0].message, result]
    body = asked(model) | {"messages": turns, "max_completion_tokens": 4}
    second = client.chat.completions.create(**body, tools=DECLARED, tool_choice="none")
    assert isinstance(second.choices[0].message.content, str)


def test_streamed_calls(client, model):
    body = asked(model) | {"tools": DECLARED} | ONE
    with client.chat.completions.stream(**body) as stream:
        deltas = [
            e.arguments_delta for e in stream if e.type == "tool_calls.function.arguments.delta"
        ]
        final = stream.get_final_completion()
    [call] = final.choices[0].message.tool_calls
    right(call)
    assert "".join(deltas) == call.function.arguments
    [whole] = client.chat.completions.create(**body).choices[0].message.tool_calls
    assert whole.function.arguments == call.function.arguments


def test_parsed_calls(client, model):
    answer = client.chat.completions.parse(
        **asked(model), tools=[openai.pydantic_function_tool(Colour)], **ONE
    )
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Colour)


def test_schema(client, model):
    schema = {"name": "sum", "schema": Sum.model_json_schema(), "strict": True}
    answer = client.chat.completions.create(
        **asked(model), response_format={"type": "json_schema", "json_schema": schema}, n=3
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        Sum.model_validate_json(choice.message.content)


def test_parsed(client, model):
    body = asked(model) | {"response_format": Sum}
    message = client.chat.completions.parse(**body).choices[0].message
    assert isinstance(message.parsed, Sum)
    with client.chat.completions.stream(**body) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == message.parsed


def test_object(client, model):
    body = asked(model) | {"max_completion_tokens": 3000}
    [choice] = client.chat.completions.create(
        **body, response_format={"type": "json_object"}
    ).choices
    assert choice.finish_reason == "stop"
    assert isinstance(json.loads(choice.message.content), dict)
