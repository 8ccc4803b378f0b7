"""A server like that of a session (tornado, as Jupyter's is), for measurements of the gateway.

Run by the agent as a payload; writes its port into the file `port`, so that it can be reached
directly, too.
"""

import asyncio
import os
import socket
from pathlib import Path

from tornado import web, websocket
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

_BLOCK = bytes(256 * 1024)


class Small(web.RequestHandler):
    def get(self):
        self.write({"kernels": [], "last_activity": "2026-11-24T10:00:00.000000Z", "started": True})


class Download(web.RequestHandler):
    async def get(self):
        left = int(self.get_query_argument("size"))
        self.set_header("Content-Length", left)
        while left:
            self.write(_BLOCK[:left])
            left -= min(left, len(_BLOCK))
            await self.flush()


@web.stream_request_body
class Upload(web.RequestHandler):
    def prepare(self):
        self.request.connection.set_max_body_size(2**40)
        self.size = 0

    def data_received(self, chunk):
        self.size += len(chunk)

    def put(self):
        self.write({"size": self.size})


class Echo(websocket.WebSocketHandler):
    def on_message(self, message):
        self.write_message(message, binary=isinstance(message, bytes))


async def main() -> None:
    route = os.environ["ROUTE"]
    handlers = [("small", Small), ("download", Download), ("upload", Upload), ("echo", Echo)]
    app = web.Application([(route + name, handler) for name, handler in handlers])
    [listener] = bind_sockets(0, "127.0.0.1")
    HTTPServer(app, max_buffer_size=2**40).add_sockets([listener])
    number = listener.getsockname()[1]
    host, _, dial = os.environ["OFFLOAD_DIAL"].rpartition(":")
    agent = socket.create_connection((host, int(dial)))
    agent.sendall(
        f"REGISTER 127.0.0.1.{os.environ['OFFLOAD_NET']}:{number} HTTP/1.1\r\nOffload-Serves: yes\r\n"
        f"Proxy-Authorization: Bearer {os.environ['OFFLOAD_DIAL_TOKEN']}\r\n\r\n".encode()
    )
    assert b" 200 " in agent.recv(4096)
    Path("port").write_text(str(number))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
