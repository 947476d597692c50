"""Rules about who can reach the server, and whose code it runs."""

from .rule_context import RuleContext, ServingRule

_BOTH = ("vllm", "sglang")
_OPEN = ("0.0.0.0", "::", "[::]", "*")
# an API key of the server, by its argument or variable
_KEYS = ("api_key", "VLLM_API_KEY")


def _is_server(case: RuleContext) -> bool:
    return case.settings.kind != "python"


def _has_key(case: RuleContext) -> bool:
    return any(case.given(key) or case.variable(key) for key in _KEYS)


def _open(case: RuleContext) -> bool:
    return _is_server(case) and case.text("host") in _OPEN and not _has_key(case)


def _open_by_default(case: RuleContext) -> bool:
    alone = not case.given("host") and not case.given("uds") and not _has_key(case)
    return _is_server(case) and alone


RULES = (
    ServingRule(
        "remote-code",
        "warning",
        "trust_remote_code runs Python that comes with the model",
        ("trust_remote_code",),
        lambda case: case.flag("trust_remote_code") is True,
        matters="Whoever can change that repository runs code on this server. AWQ itself needs "
        "none.",
        change=(("trust_remote_code", None),),
        do=("if the architecture needs it: read the code, and pin it with --code-revision COMMIT",),
        engines=_BOTH,
    ),
    ServingRule(
        "open-to-network",
        "warning",
        "Everyone who reaches this address can use the model: there is no API key",
        ("host",),
        _open,
        "likely",
        "In a container this host is usual; then the published port decides.",
        do=(
            "set VLLM_API_KEY, or listen on 127.0.0.1 behind a proxy",
            "the key guards /v1, /v2 and /inference alone: other routes need the proxy",
        ),
        engines=_BOTH,
    ),
    ServingRule(
        "open-by-default",
        "note",
        "Without --host vLLM listens on every address, and there is no API key",
        ("host",),
        _open_by_default,
        do=("add --host 127.0.0.1, or set VLLM_API_KEY and put a proxy before it",),
    ),
    ServingRule(
        "secret-in-settings",
        "note",
        "A key stands in the settings, where others may read it (ps shows arguments)",
        ("api_key",),
        lambda case: case.given("api_key"),
        "likely",
        do=("set VLLM_API_KEY in the environment instead",),
    ),
    ServingRule(
        "key-set",
        "good",
        "Requests need an API key",
        ("api_key",),
        lambda case: _is_server(case) and _has_key(case),
        engines=_BOTH,
    ),
)
