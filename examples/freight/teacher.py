"""A stand-in for a paid teacher: an OpenAI-compatible endpoint that knows the tariff and thinks aloud.

    python examples/freight/teacher.py --port 8200

Its thinking is that of a talkative model, and one sum in eight is wrong, so that verification has something to do. Use
a real teacher (DeepSeek's API, or a larger model on another machine) for problems of your own.
"""

from __future__ import annotations

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

from make import QUESTIONS

from deepground.tasks import Problem
from deepground.tasks.freight import Freight, teacher_trace

PROBLEMS: dict[str, Problem] = {p.question: p for p in (Freight().generate(seed) for seed in range(QUESTIONS * 2))}
DICE = Random(0)


class Handler(BaseHTTPRequestHandler):
    """Two routes: the list of models, and chat."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The model's name."""
        self.answer(200, {"object": "list", "data": [{"id": "freight-teacher", "object": "model"}]})

    def do_POST(self) -> None:
        """An answer with its thinking."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = request["messages"][-1]["content"]
        problem = PROBLEMS.get(question)
        if problem is None:
            self.answer(400, {"error": {"message": "This teacher knows the questions of questions.csv alone."}})
            return
        thinking, answer = teacher_trace(problem, DICE)
        message = {"role": "assistant", "content": answer, "reasoning_content": thinking}
        words = len(thinking.split()) + 1
        self.answer(200, {
            "id": f"chat-{time.time_ns()}", "object": "chat.completion", "created": int(time.time()),
            "model": "freight-teacher", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": len(question.split()), "completion_tokens": words, "total_tokens": words},
        })  # fmt: skip

    def answer(self, status: int, body: dict[str, Any]) -> None:
        """Send JSON."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8200)
    arguments = parser.parse_args()
    print(f"teacher on http://127.0.0.1:{arguments.port}/v1", flush=True)
    ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
