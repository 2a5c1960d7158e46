"""A child process that answers questions, one at a time; between them it is idle.

The parent keeps one for each side and asks them in turn, so that both are warm and neither works
while the other is measured. Questions and answers are lines of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

_PATIENCE = 20.0


class Peer:
    """`python -m MODULE --side SIDE ...`, which calls `answer_all`."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        """Start it; what it prints goes to `log`."""
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                text=True,
            )

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def ask(self, question: Mapping[str, Any]) -> Any:
        """The answer.

        Raises:
            RuntimeError: the child died; the message ends with the end of its log.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer died:\n{self._log.read_text()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End it: politely, then not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def claim_stdout() -> TextIO:
    """Where answers go. From here on everything else that prints, prints to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def answer_all(answers: TextIO, answer: Callable[[dict[str, Any]], Any]) -> None:
    """Answer the questions on stdin until it closes."""
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()
