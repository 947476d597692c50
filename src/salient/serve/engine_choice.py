"""Which engine serves. Imports no torch."""

from importlib.util import find_spec

from salient.core.errors import MissingExtra, RequestError

from .options import ServeOptions

ENGINES = ("auto", "embedded", "vllm")
NEEDED = ("fastapi", "uvicorn", "prometheus_client", "llguidance")  # by the embedded engine


def chosen_engine(request: ServeOptions) -> str:
    """'embedded' or 'vllm'.

    Raises RequestError for what does not go together.
    """
    engine, reference = request.engine, request.reference
    if engine not in ENGINES:
        raise RequestError(f"Unknown engine {engine!r}. Give one of {', '.join(ENGINES)}.")
    for_vllm = bool(request.vllm_python or request.vllm_args or request.print_command)
    if engine == "embedded" or (engine == "auto" and reference):
        if for_vllm:
            raise RequestError(
                "--vllm-python, --print-command and words after -- are for vLLM, but the embedded "
                "engine was asked for"
                + ("" if engine == "embedded" else " (--reference needs it)")
                + ". Leave them out, or give --engine vllm."
            )
        return "embedded"
    if reference:
        raise RequestError(
            "--reference is shown by the explorer, which runs with the embedded engine alone. "
            "Leave it out, or give --engine embedded."
        )
    if engine == "vllm" or for_vllm:
        return "vllm"
    from salient.serve.vllm.launch import find_vllm

    return "embedded" if find_vllm(None) is None else "vllm"


def check_extra() -> None:
    """Raise MissingExtra unless the libraries of the embedded engine's server are there."""
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        raise MissingExtra(
            f"The embedded engine's server needs the extra 'serve' ({', '.join(lacking)} cannot be "
            "found): pip install 'salient-awq[serve]'"
        )
