"""What `helm test` asks of a running service: one request per check, in Workers AI's dialect."""

import json
import os
import sys
from http.client import HTTPResponse
from urllib.error import HTTPError
from urllib.request import Request, urlopen

MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"


def ask(token: str, **fields: object) -> HTTPResponse:
    """The answer of `ai/run` to a short prompt."""
    base, account = os.environ["BASE_URL"], os.environ["ACCOUNT_ID"]
    return urlopen(
        Request(
            f"{base}/client/v4/accounts/{account}/ai/run/{MODEL}",
            json.dumps({"prompt": "Say hello.", "max_tokens": 8, **fields}).encode(),
            {"authorization": f"Bearer {token}", "content-type": "application/json"},
        ),
        timeout=120,
    )


def refusal(token: str) -> tuple[int, dict[str, object]]:
    """The status and body of an answer, which may be an error."""
    try:
        answer = ask(token)
    except HTTPError as error:
        return error.code, json.load(error)
    return answer.status, json.load(answer)


def run() -> None:
    """A plain answer is complete and says what it used."""
    answer = json.load(ask(os.environ["API_TOKEN"]))
    assert answer["success"] is True, answer
    assert answer["result"]["usage"]["completion_tokens"] > 0, answer


def stream() -> None:
    """A stream has events and an end."""
    text = ask(os.environ["API_TOKEN"], stream=True).read().decode()
    events = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    assert len(events) > 1, text
    assert events[-1] == "[DONE]", text
    assert "response" in json.loads(events[0]), text


def auth() -> None:
    """A token that nobody holds opens nothing."""
    status, answer = refusal("nobody-holds-this-token")
    assert status == 401, status
    assert answer["success"] is False, answer


if __name__ == "__main__":
    {"run": run, "stream": stream, "auth": auth}[sys.argv[1]]()
    sys.stdout.write(f"{sys.argv[1]}: ok\n")
