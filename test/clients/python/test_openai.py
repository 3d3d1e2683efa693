"""OpenAI's own client for Python."""

import asyncio

import openai
import pytest

ENDLESS = {"extra_body": {"ignore_eos": True}}


def chat(question: dict) -> dict:
    return {
        "model": question["model"],
        "messages": [{"role": "user", "content": question["prompt"]}],
        "max_completion_tokens": 2,
        "temperature": 0,
    }


def completion(question: dict) -> dict:
    return {
        "model": question["model"],
        "prompt": question["prompt"],
        "max_tokens": 2,
        "temperature": 0,
    }


def test_models(client, questions):
    assert {model.id for model in client.models.list()} == {q["model"] for q in questions}
    assert client.models.retrieve("subtract").id == "subtract"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


def test_completions(client, questions):
    for question in questions:
        answer = client.completions.create(**completion(question))
        assert answer.choices[0].text == question["answer"]
        assert answer.choices[0].finish_reason == "stop"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 2)


def test_streamed_completions(client, questions):
    for question in questions:
        stream = client.completions.create(
            **completion(question), stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        texts = [choice.text for chunk in chunks for choice in chunk.choices]
        assert "".join(texts) == question["answer"]
        assert chunks[-1].usage.total_tokens == 7


def test_sampling(client):
    def draw(seed: int) -> list[str]:
        answer = client.completions.create(
            model="multiply", prompt=["17 @ 5 =", "3 @ 4 ="], n=3, max_tokens=8,
            temperature=1.5, seed=seed, **ENDLESS,
        )
        assert [choice.index for choice in answer.choices] == list(range(6))
        return [choice.text for choice in answer.choices]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_logprobs(client):
    answer = client.completions.create(
        model="subtract", prompt=" 17 @ 5 =", max_tokens=1, temperature=0, logprobs=3, echo=True
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["<s>", " 17", " @", " 5", " =", " 12"]
    assert logprobs.token_logprobs[0] is None
    answer = client.chat.completions.create(
        **chat({"model": "subtract", "prompt": "17 @ 5 ="}), logprobs=True, top_logprobs=3
    )
    first = answer.choices[0].logprobs.content[0]
    assert (first.token, bytes(first.bytes)) == (" 12", b" 12")
    assert first.top_logprobs[0].logprob == first.logprob


def test_chats(client, questions):
    for question in questions:
        answer = client.chat.completions.create(**chat(question))
        assert answer.choices[0].message.content == question["answer"]
        assert answer.usage.completion_tokens == 2


def test_streamed_chats(client, questions):
    for question in questions:
        with client.chat.completions.stream(**chat(question)) as stream:
            text = "".join(e.delta for e in stream if e.type == "content.delta")
            final = stream.get_final_completion()
        assert text == final.choices[0].message.content == question["answer"]


def test_many_at_once(base_url, questions):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            answers = await asyncio.gather(
                *(client.chat.completions.create(**chat(q)) for q in questions * 5)
            )
            return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(ask()) == [question["answer"] for question in questions * 5]


def test_errors(client):
    question = {"model": "nobody", "prompt": "1 @ 1 ="}
    for call in (
        lambda: client.completions.create(**completion(question)),
        lambda: client.chat.completions.create(**chat(question)),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    known = {"model": "demo", "prompt": "1 @ 1 ="}
    for more, code, param in (
        ({"max_tokens": -1}, "invalid_request", "max_tokens"),
        ({"extra_body": {"mood": "good"}}, "unknown_field", "mood"),
        ({"suffix": "."}, "unsupported_field", "suffix"),
        ({"max_tokens": 5000}, "context_length_exceeded", "prompt"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**(completion(known) | more))
        assert caught.value.code == code
        assert caught.value.param == param


def test_a_stream_that_is_left(client):
    stream = client.chat.completions.create(
        **(chat({"model": "cubic", "prompt": "1 @ 1 ="}) | {"max_completion_tokens": 4000}),
        stream=True, **ENDLESS,
    )
    with stream:
        assert next(iter(stream)).choices
