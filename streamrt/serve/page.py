"""The page at ``/``, for people. It is one file without data: in the browser it reads the metrics, as anyone may.

The index of all models needs the token, which a user may give to the page. The page keeps it in memory only.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from streamrt.serve.http import Routes


class Page:
    """The file.

    Attributes:
        headers: allow the file nothing but its own script, its own style, and requests to this server.
    """

    def __init__(self) -> None:
        self._text = resources.files("streamrt.serve").joinpath("page.html").read_bytes()
        policy = {
            "default-src": "'none'",
            "script-src": _hashes(self._text, b"script"),
            "style-src": _hashes(self._text, b"style"),
            "img-src": "data:",  # the empty icon, without which browsers would ask for one
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
        }
        self.headers = {
            "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }

    def add_to(self, routes: Routes) -> None:
        """Add the route to the table."""
        routes.add("/", "GET", self.page)

    async def page(self, request: Request) -> Response:
        """The page."""
        return Response(self._text, headers=self.headers, media_type="text/html")


def _hashes(page: bytes, tag: bytes) -> str:
    """Sources of a content security policy: the hash of the text of each element ``tag`` of ``page``."""
    found = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found)
