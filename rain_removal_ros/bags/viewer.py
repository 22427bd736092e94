"""A page in the browser that shows what goes through the node while it does. Knows pictures only.

One thread encodes, one serves. The newest picture wins, for every browser by itself: a slow one sees fewer.
"""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from aiohttp import WSMsgType, web

from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.share import share_file

PAGE = "config/replay_viewer.html"
PANELS = ("before", "after", "depth", "mask")
WIDEST = 960  # pixels; more is not shown
JPEG_QUALITY = 80

Slot = tuple[str, str]  # camera, panel


@dataclass(frozen=True)
class Shown:
    """A picture to be shown. make: gives it, uint8 (H, W, 3) RGB, in the encoder's thread."""

    stamp: int  # ns
    make: Callable[[], np.ndarray]
    latency_ms: float | None = None  # from the rainy image to this one


class Viewer:
    """The page's server; a context manager. Everything but `close` may be called from any thread."""

    def __init__(self, cameras: list[str], port: int, host: str = "localhost"):
        """Raises RainRemovalError where the port cannot be had."""
        self._cameras, self._host, self._port = cameras, host, port
        self._slots: dict[Slot, Shown] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._clients: dict[_Client, None] = {}
        self._status = ""
        self._failure: OSError | None = None
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._server = threading.Thread(target=self._serve, name="viewer")
        self._encoder = threading.Thread(target=self._encode, name="viewer-encoder")
        self._server.start()
        self._started.wait()
        if self._failure is not None:
            self._server.join()
            reason = self._failure.strerror
            raise RainRemovalError(f"port {port} on {host} cannot be had: {reason}; give another")
        self._encoder.start()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self._host}:{self._port}/"

    @property
    def watched(self) -> bool:
        """Whether a browser is looking."""
        return bool(self._clients)

    def show(self, camera: str, panel: str, shown: Shown) -> None:
        """Show a picture in one of PANELS, in place of one that is not encoded yet."""
        if not self._clients:
            return
        with self._changed:
            self._slots[camera, panel] = shown
            self._changed.notify_all()

    def status(self, content: dict[str, Any]) -> None:
        """Show what is in `content`, JSON: `diagnostics`, `seconds`, `total`."""
        self._status = json.dumps({"cameras": self._cameras, **content})
        self._loop.call_soon_threadsafe(self._hand_out, ("", "status"), self._status)

    def close(self) -> None:
        """End the page."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._encoder.join()
        self._loop.call_soon_threadsafe(self._end.set)
        self._server.join()

    # -- the encoder's thread ----------------------------------------------------------------------

    def _encode(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._slots)
                if self._closing:
                    return
                slots, self._slots = self._slots, {}
            for (camera, panel), shown in slots.items():
                try:
                    data = _packed(camera, panel, shown)
                except (RainRemovalError, cv2.error):  # a picture that cannot be shown; the node says why
                    continue
                self._loop.call_soon_threadsafe(self._hand_out, (camera, panel), data)

    # -- the server's thread -----------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        except OSError as error:
            self._failure = error
        finally:
            self._loop.close()
            self._started.set()

    async def _run(self) -> None:
        self._end = asyncio.Event()
        application = web.Application()
        application.add_routes([web.get("/", self._page), web.get("/live", self._live)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            self._port = runner.addresses[0][1]
            self._started.set()
            await self._end.wait()
        finally:
            for client in list(self._clients):
                await client.socket.close()
            await runner.cleanup()

    async def _page(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(share_file(PAGE), headers={"Cache-Control": "no-store"})

    async def _live(self, request: web.Request) -> web.WebSocketResponse:
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="only this server's own page may look")
        client = _Client(web.WebSocketResponse(heartbeat=20))
        await client.socket.prepare(request)
        self._clients[client] = None
        client.put(("", "status"), self._status or json.dumps({"cameras": self._cameras}))
        sending = asyncio.create_task(client.send())
        try:
            async for message in client.socket:
                if message.type is WSMsgType.ERROR:
                    break
        finally:
            self._clients.pop(client, None)
            sending.cancel()
        return client.socket

    def _hand_out(self, slot: Slot, data: bytes | str) -> None:
        for client in self._clients:
            client.put(slot, data)


class _Client:
    """One browser, and what waits for it: the newest of every slot."""

    def __init__(self, socket: web.WebSocketResponse):
        self.socket = socket
        self._waiting: dict[Slot, bytes | str] = {}
        self._something = asyncio.Event()

    def put(self, slot: Slot, data: bytes | str) -> None:
        self._waiting[slot] = data
        self._something.set()

    async def send(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                data = self._waiting.pop(next(iter(self._waiting)))
                try:
                    if isinstance(data, str):
                        await self.socket.send_str(data)
                    else:
                        await self.socket.send_bytes(data)
                except ConnectionError:  # it has left
                    return


def _packed(camera: str, panel: str, shown: Shown) -> bytes:
    """Length of a JSON header (uint32, little-endian), the header, a JPEG."""
    image = shown.make()
    if image.shape[1] > WIDEST:
        height = max(1, round(image.shape[0] * WIDEST / image.shape[1]))
        image = cv2.resize(image, (WIDEST, height), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert done
    about = {"camera": camera, "panel": panel, "stamp": str(shown.stamp), "latency": shown.latency_ms}
    header = json.dumps(about).encode()
    return struct.pack("<I", len(header)) + header + data.tobytes()
