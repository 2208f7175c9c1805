"""W&B online: what is sent to a server that keeps all it hears, and what is not."""

import dataclasses
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from tests.runs.records import CLIENT, record
from tests.runs.trackers.private import CLIENTS, as_user, assert_tells_nobody, private_config
from ufm_jax.runs.history import MetricWriter
from ufm_jax.runs.tracking import trackers

wandb = pytest.importorskip("wandb", reason="pip install 'ufm-jax[tracking]'")


class Listener(BaseHTTPRequestHandler):
    """Answers as W&B's server does, as far as a run needs it."""

    protocol_version = "HTTP/1.1"
    heard: ClassVar[list[str]] = []
    history: ClassVar[list[str]] = []

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.heard.append(f"{self.path} {self.headers} {text}")
        if self.path == "/graphql":
            answer = {"data": self.answer(json.loads(text))}
        else:
            files = json.loads(text).get("files") or {} if "file_stream" in self.path else {}
            self.history += files.get("wandb-history.jsonl", {}).get("content", [])
            answer = {}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST

    def answer(self, asked):
        variables, query = asked["variables"], asked["query"]
        run = {"id": "r", "name": variables.get("name"), "displayName": "", "config": "{}"}
        place = {"id": "p", "name": "ufm_jax", "entity": {"id": "e", "name": "somebody"}}
        if "createRunFiles" in query:
            address = f"http://127.0.0.1:{self.server.server_port}/upload/"
            files = [{"name": name, "uploadUrl": address + name} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "upsertBucket" in query:
            return {"upsertBucket": {"bucket": run | {"project": place}, "inserted": True}}
        if "RunResumeStatus" in query and self.history:
            counts = {
                "historyLineCount": len(self.history),
                "logLineCount": 0,
                "eventsLineCount": 0,
            }
            tails = {"historyTail": json.dumps(self.history[-1:]), "eventsTail": "[]"}
            kept = {"summaryMetrics": "{}", "wandbConfig": json.dumps({"t": 1}), "tags": []}
            return {"model": place | {"bucket": run | counts | tails | kept}}
        return {"model": {"bucket": None}} if "RunResumeStatus" in query else {}

    def log_message(self, *args):
        pass


@pytest.fixture
def address():
    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def train(workdir, config, first, last):
    clients = [dataclasses.replace(CLIENT, client=name) for name in CLIENTS]
    with (
        MetricWriter(workdir, first) as writer,
        trackers(config, workdir, first, CLIENTS) as (take,),
    ):
        for one in (record(r, clients=clients) for r in range(first, last)):
            writer.write(one)
            take(one)


def test_each_round_is_sent_once_and_nothing_that_names_anybody(
    tmp_path, address, monkeypatch, caplog
):
    as_user(monkeypatch)
    for variable, value in {
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": address,
        "WANDB_API_KEY": "a" * 40,
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(variable, value)
    wandb.teardown()  # Another test's server may be remembered.
    config = private_config(tmp_path, "wandb")
    train(tmp_path / "run", config, 0, 3)
    train(tmp_path / "run", config, 2, 5)
    wandb.teardown()
    assert "away" not in caplog.text
    losses = {row["_step"]: row["round/loss"] for row in map(json.loads, Listener.history)}
    assert losses == {r: 1 / (r + 1) for r in range(5)}
    assert len(Listener.history) == 5
    assert_tells_nobody("\n".join(Listener.heard), tmp_path)
