"""A stand-in for the Hub's API: repositories, branches, uploads and commits, in memory."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "x" * 20


class HubServer:
    """A server for the time of a `with`. commits: branch -> path -> SHA-256 of its content"""

    def __init__(self, token: str = TOKEN, *, writable: bool = True, public: tuple[str, ...] = ()):
        self.token, self.writable = token, writable
        self.repos: dict[str, bool] = dict.fromkeys(public, False)
        self.blobs: dict[str, bytes] = {}
        self.commits: dict[str, dict[str, str]] = {}
        self.messages: list[str] = []
        self.cards: list[str] = []
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size)
                hub.requests.append(f"{self.command} {self.path}")
                code, answer = hub.answer(self.command, self.path, body, self.headers)
                data = json.dumps(answer).encode()
                self.send_response(code)
                if code >= 400:
                    self.send_header("X-Error-Message", str(answer.get("error", "")))
                if code == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if method == "PUT" and path.startswith("/lfs/"):
            self.blobs[path.removeprefix("/lfs/")] = body
            return 200, {}
        if path == "/api/validate-yaml":
            self.cards.append(json.loads(body)["content"])
            return 200, {"errors": [], "warnings": []}
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"error": "Invalid username or password."}
        if method == "GET":
            repo = path.removeprefix("/api/models/").partition("/revision/")[0]
            if repo not in self.repos:
                return 404, {"error": "Repository not found"}
            return 200, {"id": repo, "private": self.repos[repo], "siblings": [], "tags": []}
        if not self.writable:
            return 403, {"error": "Forbidden: you need write access"}
        return 200, self._write(path, body)

    def _write(self, path: str, body: bytes) -> Any:
        if path == "/api/repos/create":
            data = json.loads(body)
            repo = f"{data['organization']}/{data['name']}"
            private = data.get("visibility") == "private" or bool(data.get("private"))
            self.repos.setdefault(repo, private)
            return {"url": f"{self.url}/{repo}", "name": repo}
        if "/branch/" in path:
            return {}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in files
                ]
            }
        if path.endswith("/info/lfs/objects/batch"):
            return {
                "transfer": "basic",
                "objects": [
                    {**each, "actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ],
            }
        repo, _, branch = path.removeprefix("/api/models/").partition("/commit/")
        self._commit(branch, [json.loads(line) for line in body.splitlines() if line.strip()])
        return {"commitUrl": f"{self.url}/{repo}/commit/0123", "commitOid": "0123"}

    def _commit(self, branch: str, lines: list[dict[str, Any]]) -> None:
        files = self.commits.setdefault(branch, {})
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "lfsFile":
                assert hashlib.sha256(self.blobs[value["oid"]]).hexdigest() == value["oid"]
                files[value["path"]] = value["oid"]
            elif line["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = hashlib.sha256(content).hexdigest()
