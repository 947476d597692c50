"""The official client of OpenAI's API notices no difference."""

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel

from helpers.engines import never_dense
from helpers.rtn_checkpoints import rounded_toy
from helpers.served_app import served, until
from salient.serve.app import AppSettings

TALK = [{"role": "user", "content": "hello"}]
KEY = "secret"


class Mood(BaseModel):
    """What an answer is parsed into."""

    good: bool


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        never_dense(patch)
        folder = rounded_toy(tmp_path_factory.mktemp("body"))
        settings = AppSettings("toy", api_key=KEY)
        with served(folder, settings, max_waiting=2, context_length=256) as running:
            running.headers["Authorization"] = f"Bearer {KEY}"
            yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(**reached(server)) as connected:
        yield connected


def reached(server, **more) -> dict:
    return {
        "base_url": f"http://127.0.0.1:{server.port}/v1",
        "api_key": KEY,
        "max_retries": 0,
        **more,
    }


def test_models_are_listed_and_retrieved(client):
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").owned_by == "salient"


def test_a_chat_is_the_same_streamed_and_not(client):
    body = {"model": "toy", "messages": TALK, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**body)
    assert whole.usage.completion_tokens == 12
    assert whole.choices[0].finish_reason == "length"
    with client.chat.completions.stream(**body, stream_options={"include_usage": True}) as stream:
        assert len(list(stream)) > 12
        final = stream.current_completion_snapshot
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == "length"
    assert final.usage == whole.usage


def test_choices_and_log_probabilities_have_the_clients_types(client):
    body = {"model": "toy", "messages": TALK, "max_completion_tokens": 5, "seed": 1, "n": 2}
    reply = client.chat.completions.create(**body, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in reply.choices] == [0, 1]
    token = reply.choices[0].logprobs.content[0]
    assert token.logprob <= 0
    assert len(token.top_logprobs) == 2
    endless = {"temperature": 0, "extra_body": {"ignore_eos": True}}
    plain = client.completions.create(
        model="toy", prompt="one", max_tokens=4, logprobs=1, **endless
    )
    assert len(plain.choices[0].logprobs.token_logprobs) == 4


def test_an_answer_is_parsed_into_a_model(client):
    reply = client.chat.completions.parse(
        model="toy", messages=TALK, response_format=Mood, max_tokens=60, temperature=0
    )
    assert isinstance(reply.choices[0].message.parsed, Mood)


def test_errors_are_the_clients_own(server, client):
    with pytest.raises(openai.NotFoundError, match="no model 'other' here"):
        client.chat.completions.create(model="other", messages=TALK)
    with pytest.raises(openai.BadRequestError, match=r"temperature=-1.0 cannot be used"):
        client.chat.completions.create(model="toy", messages=TALK, temperature=-1)
    with (
        openai.OpenAI(**reached(server, api_key="wrong")) as stranger,
        pytest.raises(openai.AuthenticationError, match="A key is needed"),
    ):
        stranger.models.list()


def test_a_client_refused_for_load_retries_and_succeeds(server):
    """2 slots, 2 places to wait, 8 clients: with its usual retries each gets its answer."""

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(**reached(server, max_retries=20)) as client:
            calls = [
                client.completions.create(
                    model="toy", prompt="one", max_tokens=100, temperature=0, stop="\x00\x00"
                )
                for _ in range(8)
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*calls)]

    texts = asyncio.run(all_of_them())
    assert len(texts) == 8
    assert len(set(texts)) == 1


def test_closing_a_stream_cancels_the_request(server, client):
    stream = client.completions.create(
        model="toy", prompt="one", max_tokens=200, stream=True, extra_body={"ignore_eos": True}
    )
    assert json.loads(next(iter(stream)).model_dump_json())["object"] == "text_completion"
    stream.close()
    until(lambda: server.metric("num_requests_running") == 0)
