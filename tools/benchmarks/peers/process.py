"""Another implementation in a process of its own, driven line by line.

The peer reads one JSON object a line on its standard input and answers each with one on its
standard output; ``serve`` is its side of the conversation, and needs nothing but Python. Peers
time themselves, so that the conversation is in no figure.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

Message = dict[str, Any]


class Peer:
    """A running peer. Close it: it holds memory, and perhaps an accelerator."""

    def __init__(self, python: Path, script: Path, environment: Mapping[str, str]) -> None:
        """Starts it.

        Args:
            python: The interpreter, which has what the script needs.
            script: Calls ``serve``.
            environment: Environment variables, complete.
        """
        self._name = script.stem
        self._process = subprocess.Popen(
            [python, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(environment),
        )

    def ask(self, do: str, **arguments: Any) -> Message:
        """Sends one request and waits for its answer.

        Raises:
            RuntimeError: If the peer failed or ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self._name} ended with {self._process.wait()} while asked to {do}"
            )
        answer: Message = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self._name}, asked to {do}: {answer['error']}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def serve(handlers: Mapping[str, Callable[..., Message]], answers: TextIO) -> None:
    """Answers requests until the input ends.

    Args:
        handlers: What each request does, with the request's other keys as arguments.
        answers: Where answers go: the standard output as it was at the start, since libraries
            print to it.
    """
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop("do")](**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
