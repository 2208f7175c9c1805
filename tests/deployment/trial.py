"""A SuperLink with TLS, and SuperNodes that prove themselves, each with a folder of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class Trial:
    """Processes on this machine. Use it as a context manager."""

    def __init__(self, folder: Path, images: Path, sites):
        self.folder, self.images, self.sites = folder, images, tuple(sites)
        self.keys, self.running = folder / "keys", {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_NUM")}
        self.environment = kept | {
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "JAX_PLATFORMS": "cpu",
        }

    def __enter__(self):
        names = ",".join(self.sites)
        self.tool("certificates", f"--sites={names}", f"--out={self.keys}")
        (self.folder / "flwr").mkdir()
        address = f'address = "127.0.0.1:{self.port}"'
        authority = f'root-certificates = "{self.keys}/ca.crt"'
        text = f'[superlink]\ndefault = "trial"\n\n[superlink.trial]\n{address}\n{authority}\n'
        (self.folder / "flwr" / "config.toml").write_text(text)
        self.start_superlink()
        for site in self.sites:
            self.flwr("supernode", "register", str(self.keys / f"{site}.pub"), "--name", site)
        return self

    def __exit__(self, *error):
        for name in list(self.running):
            self.kill(name, signal.SIGTERM)

    def tool(self, *arguments):
        """Runs ``tools.deploy``."""
        self.run(sys.executable, "-m", "tools.deploy", *arguments)

    def app(self, name: str, keys) -> Path:
        """Writes the app of a study, its server's folder beside it."""
        out = self.folder / name
        values = {
            key: ",".join(map(str, v)) if isinstance(v, tuple) else v for key, v in keys.items()
        }
        flags = [f"--config.{key}={value}" for key, value in values.items()]
        config = f"--config={ROOT / 'tests' / 'deployment' / 'study_config.py'}"
        self.tool("flower", config, f"--sites={','.join(self.sites)}", f"--out={out}", *flags)
        return out

    def start_superlink(self):
        """Starts the server's side, which remembers sites and runs on disk."""
        keys = self.keys
        self.start(
            "superlink",
            "flower-superlink",
            *("--ssl-ca-certfile", keys / "ca.crt", "--ssl-certfile", keys / "server.crt"),
            *("--ssl-keyfile", keys / "server.key", "--enable-supernode-auth"),
            *("--host", "127.0.0.1", "--port", self.port),
            *("--database", self.folder / "superlink.db"),
            "--disable-runtime-dependency-installation",
        )
        self.wait(lambda: self.ended("flwr", "list", "trial") == 0, 90, "the SuperLink")

    def start_site(self, site: str, study: Path):
        """Starts a site's SuperNode with its own folders and its copy of the study.

        It is started again where it ends with an error: after a kill Flower refuses the node until
        its last heartbeat is a minute old.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        facts = {
            "name": site,
            "study": study,
            "data": self.images / site,
            "state": self.folder / "state" / study.parent.name / site,
        }
        self.start(
            site,
            "flower-supernode",
            *("--root-certificates", self.keys / "ca.crt"),
            *("--superlink", f"127.0.0.1:{self.port}", "--host", "127.0.0.1", "--port", port),
            *("--auth-supernode-private-key", self.keys / site),
            *("--node-config", " ".join(f'{key}="{value}"' for key, value in facts.items())),
        )

    def start(self, name: str, program: str, *arguments):
        """Starts a process in a group of its own, with its output in a file."""
        again = 'until "$@"; do sleep 5; done'
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                ["sh", "-c", again, "sh", BIN / program, *map(str, arguments)],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
            )

    def kill(self, name: str, number=signal.SIGKILL):
        """Ends a process and what it has started."""
        process = self.running.pop(name)
        os.killpg(process.pid, number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)

    def stop_sites(self):
        """Ends all SuperNodes in order, so that Flower knows that they are gone."""
        for site in set(self.sites) & self.running.keys():
            self.kill(site, signal.SIGTERM)

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def flwr(self, *arguments) -> str:
        """Runs Flower's command."""
        return self.run(str(BIN / "flwr"), *map(str, arguments))

    def run(self, *command) -> str:
        """Runs a command to its end, and returns its output."""
        done = subprocess.run(
            list(command), capture_output=True, text=True, cwd=ROOT, env=self.environment
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def ended(self, program: str, *arguments) -> int:
        """The exit code of one of Flower's commands."""
        command = [BIN / program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, env=self.environment).returncode

    def wait(self, condition, seconds: float, what: str):
        """Waits until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s for {what}: {self.folder}"
            time.sleep(0.5)
