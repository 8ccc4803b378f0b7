"""What the gateway itself answers: a page for people, JSON for programs. Pure."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass

import h11

__all__ = ["Answer", "not_there", "render"]

_RETRY_S = 3

# The hub's own colours (Bootstrap 5.3), light and dark; no request leaves this page but its own.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{retry_s}">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem;
  color: light-dark(#212529, #dee2e6); background: light-dark(#fff, #212529); }}
h1 {{ font-size: 1.5rem; font-weight: 500; }}
p {{ color: light-dark(#5c636a, #adb5bd); }}
a {{ color: light-dark(#2270a8, #80b0d3); }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{sentence}</p>
<p>{more}</p>
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Answer:
    """What to say, and with which status."""

    status: int
    title: str
    sentence: str
    home: str = ""


def not_there(route: str, *, lost: bool = False, ended: bool = False) -> Answer:
    """Return the answer for a session whose server cannot be reached now. Always a 503.

    Parameters
    ----------
    route : str
        Of the session's lease, or empty if no agent has come so far.
    lost : bool
        Its agent was there, and its connection is lost.
    ended : bool
        Its agent has said its last words.

    Notes
    -----
    No word on why it ended: whoever asks need not be the user.
    """
    home = route.partition("/user/")[0] + "/hub/home" if "/user/" in route else "/hub/home"
    if ended:
        return Answer(503, "The session has ended", "Start a new one on the hub's page.", home)
    if lost:
        return Answer(
            503,
            "The connection to the session is lost",
            "It is being made again. Kernels go on meanwhile, and nothing needs to be done.",
            home,
        )
    return Answer(
        503,
        "The session is not there yet",
        "Either its job is still starting, or its connection is just being made.",
        home,
    )


def render(request: h11.Request | None, answer: Answer) -> tuple[list[tuple[str, str]], bytes]:
    """Return headers and body of `answer` in the form that `request` can use."""
    retry = [("Retry-After", str(_RETRY_S))] if answer.status == 503 else []
    body, kind = _body(request, answer)
    headers = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
        ("X-Content-Type-Options", "nosniff"),
        *retry,
    ]
    return headers, body


def _body(request: h11.Request | None, answer: Answer) -> tuple[bytes, str]:
    if request is not None and answer.status == 503 and _reads_pages(request):
        page = _PAGE.format(
            retry_s=_RETRY_S,
            title=html.escape(answer.title),
            sentence=html.escape(answer.sentence),
            more="This page looks again by itself."
            + (
                f' <a href="{html.escape(answer.home)}">All your servers</a>' if answer.home else ""
            ),
        )
        return page.encode(), "text/html; charset=utf-8"
    message = f"{answer.title}. {answer.sentence}" if answer.sentence else answer.title
    return json.dumps({"message": message, "reason": answer.title}).encode(), "application/json"


def _reads_pages(request: h11.Request) -> bool:
    accepts = [value for name, value in request.headers if name == b"accept"]
    return request.method in (b"GET", b"HEAD") and any(b"text/html" in value for value in accepts)
