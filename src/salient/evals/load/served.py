"""What a server says that it serves."""

import json
import re
import urllib.error
import urllib.request
from http.client import HTTPException

from salient.core.errors import RequestError

from .plans import Target, base_url

LARGEST_ANSWER = 2**20  # bytes
LONGEST_NAME = 1000  # characters
PATIENCE = 20.0  # seconds


def served_model(target: Target) -> str:
    """The model's name: the target's own, or the first that the server lists.

    Raises RequestError where the server does not answer or lists none.
    """
    if target.model:
        return target.model
    url = f"{base_url(target)}/v1/models"
    asked = urllib.request.Request(url)
    if target.api_key:
        asked.add_header("Authorization", f"Bearer {target.api_key}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as requests will go
    try:
        with direct.open(asked, timeout=PATIENCE) as answer:
            said = json.loads(answer.read(LARGEST_ANSWER))
        name = said["data"][0]["id"]
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise ValueError
        return name
    except urllib.error.HTTPError as error:
        advice = "Set OPENAI_API_KEY" if error.code in (401, 403) else "Look at the server's log"
        raise RequestError(f"{url} answers with status {error.code}. {advice}.") from None
    except (OSError, HTTPException) as error:
        reason = re.sub(r"[^ -~]+", " ", str(getattr(error, "reason", None) or error))[:200]
        raise RequestError(
            f"{url} does not answer ({reason}). Start the server first, and give its address."
        ) from None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise RequestError(
            f"{url} lists no model as OpenAI's API does. Is it an OpenAI-compatible server?"
        ) from None
