"""OpenAI's own client for Python: responses."""

import json

import openai
import pytest
from forms import MODELS, ONE, QUESTION, TOOLS, Colour, Sum

DECLARED = [
    {"type": "function", "name": name, "parameters": form.model_json_schema(), "strict": False}
    for name, form in TOOLS.items()
]
each_model = pytest.mark.parametrize("model", MODELS)


def exact(question: dict) -> dict:
    return {
        "model": question["model"], "input": question["prompt"],
        "max_output_tokens": 2, "temperature": 0,
    }


def asked(model: str) -> dict:
    return {
        "model": model, "input": QUESTION, "max_output_tokens": 300,
        "temperature": 1, "extra_body": {"seed": 3},
    }


def right(items) -> object:
    [call] = items
    assert call.type == "function_call" and call.status == "completed"
    TOOLS[call.name].model_validate_json(call.arguments)
    return call


def test_create(client, questions):
    for question in questions:
        response = client.responses.create(**exact(question))
        assert response.output_text == question["answer"]
        assert response.status == "completed"
        assert (response.usage.input_tokens, response.usage.output_tokens) == (5, 2)


def test_stream(client, questions):
    for question in questions:
        with client.responses.stream(**exact(question)) as stream:
            deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
            final = stream.get_final_response()
        assert "".join(deltas) == final.output_text == question["answer"]
        events = list(client.responses.create(**exact(question), stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].type == "response.completed"


def test_next_turn(client):
    first = client.responses.create(**exact({"model": "subtract", "prompt": QUESTION}))
    turns = [{"role": "user", "content": QUESTION}, *first.output]
    turns.append({"role": "user", "content": QUESTION})
    second = client.responses.create(
        model="subtract", input=turns, max_output_tokens=2, temperature=0
    )
    assert second.usage.input_tokens > 2 * first.usage.input_tokens


def test_logprobs(client):
    response = client.responses.create(
        model="subtract", input=QUESTION, max_output_tokens=1, temperature=0,
        include=["message.output_text.logprobs"], top_logprobs=3,
    )
    [first] = response.output[0].content[0].logprobs
    assert (first.token, bytes(first.bytes)) == (" 12", b" 12")
    assert first.top_logprobs[0].logprob == first.logprob


@each_model
def test_tools(client, model):
    first = client.responses.create(**asked(model), tools=DECLARED, **ONE)
    call = right(first.output)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "22"}
    turns = [{"role": "user", "content": QUESTION}, *first.output, result]
    body = asked(model) | {"input": turns, "max_output_tokens": 4}
    second = client.responses.create(**body, tools=DECLARED, tool_choice="none")
    assert [item.type for item in second.output] == ["message"]
    assert second.usage.input_tokens > 50


@each_model
def test_named(client, model):
    for name in TOOLS:
        response = client.responses.create(
            **asked(model), tools=DECLARED, tool_choice={"type": "function", "name": name}
        )
        assert right(response.output).name == name


@each_model
def test_streamed_calls(client, model):
    body = asked(model) | {"tools": DECLARED} | ONE
    with client.responses.stream(**body) as stream:
        deltas = [e.delta for e in stream if e.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == right(final.output).arguments


@each_model
def test_parsed_calls(client, model):
    tool = openai.pydantic_function_tool(Colour)
    declared = {"type": "function", **tool["function"]}
    response = client.responses.parse(**asked(model), tools=[declared], **ONE)
    assert right(response.output).parsed_arguments is not None


@each_model
def test_parsed(client, model):
    response = client.responses.parse(**asked(model), text_format=Sum)
    assert isinstance(response.output_parsed, Sum)
    with client.responses.stream(**asked(model), text_format=Sum) as stream:
        final = stream.get_final_response()
    assert final.output_parsed == response.output_parsed


@each_model
def test_object(client, model):
    body = asked(model) | {"max_output_tokens": 3000, "text": {"format": {"type": "json_object"}}}
    assert isinstance(json.loads(client.responses.create(**body).output_text), dict)


def test_errors(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="nobody", input=QUESTION)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    for more, code, param in (
        ({"store": True}, "unsupported_field", "store"),
        ({"previous_response_id": "resp_1"}, "unsupported_field", "previous_response_id"),
        ({"extra_body": {"mood": "good"}}, "unknown_field", "mood"),
        ({"max_output_tokens": 5000}, "context_length_exceeded", "input"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="demo", input=QUESTION, **more)
        assert (caught.value.code, caught.value.param) == (code, param)


def test_a_stream_that_is_left(client):
    stream = client.responses.create(
        model="cubic", input="1 @ 1 =", max_output_tokens=4000, stream=True,
        extra_body={"ignore_eos": True},
    )
    with stream:
        assert next(iter(stream)).type == "response.created"
