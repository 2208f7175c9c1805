"""The letters of a study over Flower: what the app of ``tools.deploy`` consists of.

The only use of flwr. A SuperNode is registered under its site's name, so that Flower's check of its
key tells the server who it is. Each site starts its SuperNode with the configuration

    name   the site's name in the study
    study  its own copy of study.json
    data   the folder of its images
    state  a folder for what it keeps between rounds
"""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from flwr.app import (  # type: ignore[import-not-found]
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    RecordDict,
)
from flwr.clientapp import ClientApp  # type: ignore[import-not-found]
from flwr.serverapp import Grid, ServerApp  # type: ignore[import-not-found]

from ufm_jax.cluster.process import configure_jax
from ufm_jax.deployment.messages import Letter
from ufm_jax.deployment.server import run_server
from ufm_jax.deployment.site import SiteRun
from ufm_jax.deployment.study import read_study
from ufm_jax.errors import ConfigError, UserError, one_line
from ufm_jax.files import user_path

_NODE = ("name", "study", "data", "state")
_PAUSE = 3.0
"""Seconds between looks for sites that are not connected."""

_log = logging.getLogger(__name__)


def pack(letter: Letter) -> RecordDict:
    """A letter as Flower carries it."""
    words = {"kind": letter.kind, "facts": json.dumps(dict(letter.facts))}
    arrays = {name: Array(array) for name, array in letter.arrays.items()}
    return RecordDict({"letter": ConfigRecord(words), "arrays": ArrayRecord(arrays)})


def unpack(content: RecordDict) -> Letter:
    """The letter that ``pack`` packed."""
    words, arrays = content.config_records["letter"], content.array_records["arrays"]
    found = {name: array.numpy() for name, array in arrays.items()}
    return Letter(str(words["kind"]), json.loads(str(words["facts"])), found)


def client_app() -> ClientApp:
    """A site: it answers each letter."""
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        try:
            reply = _site(context).answer(unpack(message.content))
        except UserError as error:
            reply = Letter("error", {"error": one_line(str(error))})
        if reply.kind == "error":
            _log.error("%s", reply.facts["error"])
        return Message(pack(reply), reply_to=message)

    return app


def _site(context: Context) -> SiteRun:
    missing = [key for key in _NODE if key not in context.node_config]
    if missing:
        raise ConfigError(f"--node-config lacks {', '.join(missing)}: see docs/deployment.md")
    name, study, data, state = (str(context.node_config[key]) for key in _NODE)
    own = read_study(user_path(study), data)
    configure_jax(own.config.placement)
    # Flower keeps it in the SuperNode's memory, from one message of a run to the next.
    memory = context.state.config_records.setdefault("memory", ConfigRecord())
    return SiteRun(own, name, user_path(state), memory)


def server_app(study: Path) -> ServerApp:
    """The server of a study: it runs to the last round, from its newest checkpoint."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("ufm_jax").setLevel("INFO")
        config, exchange = context.run_config, Over(grid, float(context.run_config["timeout"]))
        workdir = user_path(str(config["workdir"]))
        try:
            agreed = read_study(study)
            configure_jax(agreed.config.placement)
            promise = run_server(agreed, workdir, exchange, int(config["least"]))
        except UserError as error:
            _log.error("error: %s", one_line(str(error)))
            raise
        _log.info("the model is in %s. %s", workdir / "model", promise)

    return app


class Over:
    """Sends letters over Flower: an ``Exchange``."""

    def __init__(self, grid: Grid, timeout: float) -> None:
        """Arguments: Flower's grid, and the seconds for which an answer is waited for."""
        self._grid, self._timeout = grid, timeout

    def __call__(self, letters: Mapping[str, Letter]) -> dict[str, Letter]:
        """The answers that came in time; sites that are not connected are absent."""
        nodes = {node.name: node.node_id for node in self._grid.get_nodes()}
        here = {nodes[site]: site for site in letters if site in nodes}
        messages = [
            Message(pack(letters[site]), dst_node_id=node, message_type="train")
            for node, site in here.items()
        ]
        answers = {}
        if messages:
            for reply in self._grid.send_and_receive(messages, timeout=self._timeout):
                if reply.has_error():  # Of a process that ended, or of Flower about a site.
                    _log.warning("%s", one_line(str(reply.error.reason)))
                else:
                    answers[here[reply.metadata.src_node_id]] = unpack(reply.content)
        if len(answers) < len(letters):
            time.sleep(_PAUSE)
        return answers
