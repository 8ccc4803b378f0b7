"""A browser without a screen: signs in, fills in the form, waits, runs a notebook."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import requests
from requests.cookies import get_cookie_header

from offload_cli.demo import kernel
from offload_cli.demo.hub import LocalHub, xsrf_of
from offload_sites.testing import eventually_sync, scaled

__all__ = ["Cell", "StartFailed", "Visitor"]

_TIMEOUT_S = 60.0
_OFFERED = re.compile(r'type="radio" name="profile"[^>]* value="([^"]+)"')


class StartFailed(Exception):  # noqa: N818  # what it is told by
    """A server did not start; the message is what the page says, and what it advises."""


@dataclass(frozen=True)
class Cell:
    """A cell of code that has been run."""

    number: int
    of: int
    output: kernel.Output


class Visitor:
    """Somebody who is signed in.

    Parameters
    ----------
    hub : LocalHub
        The hub.
    name, password : str
        Who it is.
    """

    def __init__(self, hub: LocalHub, name: str, password: str) -> None:
        self.hub = hub
        self.name = name
        self.browser = hub.sign_in(name, password)

    # --- starting --------------------------------------------------------------------------------

    def offered(self) -> list[str]:
        """Return the names of the profiles on the form."""
        return _OFFERED.findall(self._get(f"/hub/spawn/{self.name}").text)

    def start(self, profile: str, say: Callable[[str], None] = lambda _: None) -> None:
        """Choose a profile and wait until the server is there.

        Parameters
        ----------
        profile : str
            Name of the profile; also one that the form does not offer.
        say : callable
            Called with the heading of the progress page, whenever it is another one.

        Raises
        ------
        StartFailed
            The server did not start, or was refused.
        """
        form = self._get(f"/hub/spawn/{self.name}")
        answer = self.browser.post(
            f"{self.hub.url}/hub/spawn/{self.name}",
            data={"_xsrf": xsrf_of(form.text), "profile": profile},
            timeout=scaled(_TIMEOUT_S),
        )
        said = ""

        def there() -> bool:
            nonlocal answer, said
            if f"/user/{self.name}/" in answer.url:
                return bool(answer.ok)
            if refusal := _failure_on(answer):
                raise StartFailed(refusal)
            heading = _first("h1", answer.text)
            if heading != said:
                said = heading
                say(heading)
            answer = self._get(f"/hub/spawn-pending/{self.name}")
            return False

        eventually_sync(there, within_s=120, saying=f"the server of {self.name} is there")

    # --- its JupyterLab --------------------------------------------------------------------------

    def run_notebook(self, path: str, *, within_s: float = 180.0) -> Iterator[Cell]:
        """Open a notebook in JupyterLab and run its cells, each when the one before is done.

        Parameters
        ----------
        path : str
            Below the user's folder.
        within_s : float
            How long one cell may take, in seconds.

        Raises
        ------
        kernel.CellError
            A cell has raised.
        """
        self._get(f"/user/{self.name}/lab")  # signs in there
        notebook = self._lab("GET", f"api/contents/{path}")["content"]
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        order = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        session = self._lab("POST", "api/sessions", json=order)
        where = f"/user/{self.name}/api/kernels/{session['kernel']['id']}/channels"
        url = self.hub.url.replace("http", "ws", 1) + where
        with kernel.open_channels(url, {"Cookie": self._cookies(where)}) as channels:
            for number, cell in enumerate(cells, 1):
                source = "".join(cell["source"])
                yield Cell(number, len(cells), kernel.execute(channels, source, within_s=within_s))
        self._lab("DELETE", f"api/sessions/{session['id']}")

    def _lab(self, method: str, path: str, **options: Any) -> Any:
        base = f"/user/{self.name}/"
        token = self.browser.cookies.get("_xsrf", path=base) or ""
        answer = self.browser.request(
            method,
            self.hub.url + base + path,
            headers={"X-XSRFToken": token},
            timeout=scaled(_TIMEOUT_S),
            **options,
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def _cookies(self, path: str) -> str:
        request = requests.Request("GET", self.hub.url + path).prepare()
        return get_cookie_header(self.browser.cookies, request) or ""

    def _get(self, path: str) -> requests.Response:
        return self.browser.get(self.hub.url + path, timeout=scaled(_TIMEOUT_S))


def _failure_on(page: requests.Response) -> str:
    """Return what a page says of a start that failed; empty if it says nothing of the sort."""
    if 'role="alert"' in page.text and "spawn_form" in page.text:  # the form, with what is wrong
        return _text(re.search(r'role="alert".*?<p>(.*?)</p>', page.text, re.DOTALL))
    if page.ok:
        return ""
    return f"{_first('h1', page.text)}. {_first('li', page.text.partition('todo-list')[2])}"


def _first(tag: str, page: str) -> str:
    return _text(re.search(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, re.DOTALL))


def _text(found: re.Match[str] | None) -> str:
    """Return the text in a piece of HTML, on one line."""
    plain = re.sub(r"<[^>]+>", " ", found[1]) if found else ""
    return re.sub(r"\s+", " ", html.unescape(plain)).strip()
