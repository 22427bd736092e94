"""The page in the browser: what it is served, over real HTTP and a real websocket."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from bag_fixtures import START, drive, record, street
from pipeline_fakes import FakeRestorer
from ros_harness import PATIENCE
from test_replay import drive_stamps, node_for, playing

from rain_removal_ros.bags.viewer import WIDEST, Shown, Viewer
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.replay.showing import showing

Look = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def looking(viewer: Viewer, **headers: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A browser's websocket, after its first status."""
    url = f"{viewer.url}live"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as socket:
        first = json.loads((await socket.receive(timeout=PATIENCE)).data)
        assert first["cameras"]
        yield socket


def unpacked(data: bytes) -> tuple[dict, np.ndarray]:
    """(header, uint8 (H, W, 3) RGB) of a picture as the page gets it."""
    (length,) = struct.unpack_from("<I", data)
    picture = cv2.imdecode(np.frombuffer(data[4 + length :], np.uint8), cv2.IMREAD_COLOR)
    return json.loads(data[4 : 4 + length]), picture[..., ::-1]


async def next_picture(socket: aiohttp.ClientWebSocketResponse) -> tuple[dict, np.ndarray]:
    while True:
        message = await socket.receive(timeout=PATIENCE)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
        if message.type is aiohttp.WSMsgType.BINARY:
            return unpacked(message.data)


def test_the_page_is_served_and_leans_on_nothing_from_elsewhere():
    async def look(viewer: Viewer) -> str:
        async with aiohttp.ClientSession() as session, session.get(viewer.url) as response:
            assert response.status == 200 and response.content_type == "text/html"
            return await response.text()

    with Viewer(["front"], 0) as viewer:
        page = asyncio.run(look(viewer))
    for part in ('id="before"', 'id="after"', 'id="depth"', 'id="mask"', 'id="plot"', 'id="diagnostics"'):
        assert part in page
    assert "http:" not in page and "src=" not in page and "@import" not in page


def test_pictures_and_status_reach_every_browser():
    async def look(viewer: Viewer) -> None:
        async with looking(viewer) as one, looking(viewer) as other:
            viewer.show("front", "after", Shown(5, lambda: street(3), 12.5))
            for socket in (one, other):
                about, picture = await next_picture(socket)
                assert about == {"camera": "front", "panel": "after", "stamp": "5", "latency": 12.5}
                assert np.abs(picture.astype(int) - street(3)).mean() < 8
            viewer.status({"seconds": 1.5, "total": 3.0, "diagnostics": []})
            status = json.loads((await one.receive(timeout=PATIENCE)).data)
            assert status == {"cameras": ["front"], "seconds": 1.5, "total": 3.0, "diagnostics": []}

    with Viewer(["front"], 0) as viewer:
        asyncio.run(look(viewer))
        assert not viewer.watched


def test_large_pictures_are_made_smaller_and_the_newest_wins():
    encoding, go_on = threading.Event(), threading.Event()
    made: list[int] = []

    def slow() -> np.ndarray:
        made.append(1)
        encoding.set()
        assert go_on.wait(PATIENCE)
        return np.zeros((64, 64, 3), np.uint8)

    def large(stamp: int) -> np.ndarray:
        made.append(stamp)
        return np.zeros((540, 1920, 3), np.uint8)

    async def look(viewer: Viewer) -> None:
        async with looking(viewer) as socket:
            viewer.show("front", "before", Shown(1, slow))
            assert await asyncio.to_thread(encoding.wait, PATIENCE)
            for stamp in (2, 3, 4):
                viewer.show("front", "before", Shown(stamp, partial(large, stamp)))
            go_on.set()
            about: dict = {}
            while about.get("stamp") != "4":  # the first may be overtaken on its way, too
                about, picture = await next_picture(socket)
            assert picture.shape == (270, WIDEST, 3)

    with Viewer(["front"], 0) as viewer:
        asyncio.run(look(viewer))
    assert made == [1, 4]


def test_a_page_of_another_origin_may_not_look():
    async def look(viewer: Viewer) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            async with looking(viewer, Origin="http://elsewhere.example"):
                pass
        async with looking(viewer, Origin=viewer.url.rstrip("/")):
            pass

    with Viewer(["front"], 0) as viewer:
        asyncio.run(look(viewer))


def test_a_port_that_is_taken_is_said():
    with Viewer(["front"], 0) as viewer:
        port = int(viewer.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(RainRemovalError, match=f"port {port} on localhost cannot be had: .*in use"):
            Viewer(["front"], port)


def test_a_replay_shows_before_after_depth_latency_and_diagnostics(tmp_path):
    path = record(tmp_path / "drive", drive(3))
    seen: dict[str, dict[str, np.ndarray]] = {"before": {}, "after": {}, "depth": {}}
    statuses: list[dict] = []

    async def look(viewer: Viewer, player) -> None:
        async with looking(viewer) as socket:
            started = False
            while not (seen["after"].keys() & seen["before"].keys() and seen["depth"]):
                message = await socket.receive(timeout=PATIENCE)
                if message.type is aiohttp.WSMsgType.TEXT:
                    statuses.append(json.loads(message.data))
                    names = [each["name"] for each in statuses[-1]["diagnostics"]]
                    if not started and "derain: front" in names:
                        started = True
                        threading.Thread(target=player.play).start()
                else:
                    about, picture = unpacked(message.data)
                    assert about["camera"] == "front"
                    assert (about["latency"] is not None) == (about["panel"] == "after")
                    seen[about["panel"]][about["stamp"]] = picture
        player.stop()

    with node_for(path, FakeRestorer()), playing(path, loop=True) as player, Viewer(["front"], 0) as viewer:
        player.wait_until_ready(timeout=PATIENCE)
        with showing(player, viewer, segmentation=False):
            asyncio.run(asyncio.wait_for(look(viewer, player), 2 * PATIENCE))
    stamp = next(stamp for stamp in seen["after"] if stamp in seen["before"])
    number = drive_stamps(3).index(int(stamp))
    assert int(stamp) >= START
    assert np.abs(seen["before"][stamp].astype(int) - street(number)).mean() < 8
    assert np.abs(seen["after"][stamp].astype(int) - (street(number) + 10)).mean() < 8
    assert {each["level"] for each in statuses[-1]["diagnostics"]} <= {"ok", "warn", "error", "stale"}
