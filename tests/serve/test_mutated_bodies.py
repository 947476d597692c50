"""Whatever is sent, the server answers, never with an error of its own (more: interop/fuzz.py)."""

import pytest

from helpers.engines import never_dense
from helpers.mutations import mutated
from helpers.rtn_checkpoints import rounded_toy
from helpers.served_app import served
from salient.serve.app import AppSettings


def test_a_malformed_body_never_gives_a_500(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        never_dense(patch)
        with served(rounded_toy(tmp_path), AppSettings("toy"), context_length=64) as server:
            counts: dict[int, int] = {}
            for path, body in mutated(400, seed=0):
                reply = server.request(path, body)
                assert reply.status < 500, (path, body, reply.body)
                assert reply.status == 200 or reply.error["message"], (path, body)
                counts[reply.status] = counts.get(reply.status, 0) + 1
    assert counts[400] > 100
    assert counts[200] > 10
