"""The pages in a real browser: no error, no request, nothing wider than the screen."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.profile_page import profile_page
from hwnas.report.explanation import write_explanation
from hwnas.report.write import write_report
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.overhead import Overhead
from profilers.targets import Target
from profilers.timing import LatencySamples

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-pipe",
)  # fmt: skip
SECONDS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt install chromium)"),
]


class Page:
    """A tab that is told what to do through the browser's debugging pipe, and all that it tells."""

    def __init__(self, folder: Path) -> None:
        to_browser, self._in = os.pipe()
        self._out, from_browser = os.pipe()
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder}"]
        # The browser reads from descriptor 3 and writes to 4; first out of each other's way.
        redirect = f'exec 8<&{to_browser} 9>&{from_browser}; exec "$0" "$@" 3<&8 4>&9'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, *command],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(SECONDS)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        signal.alarm(0)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result
            self.events.append(told)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._out, 1 << 16)
            assert read, "the browser has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told

    def open(self, path: Path, width: int) -> None:
        self.events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.ask("Page.navigate", url=path.as_uri())
        while not self.told("Page.loadEventFired"):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def mouse(self, selector: str, *, click: bool) -> None:
        """Move the mouse to the middle of the first visible element, and click there."""
        self.run(f"shown({selector!r}).scrollIntoView({{block: 'center'}})")
        x, y = self.run(
            f"(() => {{ const at = shown({selector!r}).getBoundingClientRect();"
            f" return [at.x + at.width / 2, at.y + at.height / 2] }})()"
        )
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def told(self, *methods: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") in methods]

    def problems(self) -> list[dict[str, Any]]:
        return self.told(
            "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )  # fmt: skip

    def requests(self) -> set[str]:
        sent = self.told("Network.requestWillBeSent")
        return {event["request"]["url"].partition(",")[0] for event in sent}


def _give_up(*_: object) -> None:
    raise TimeoutError(f"the browser gave no answer in {SECONDS} s")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    page = Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


SHOWN = """
const shown = (selector) => [...document.querySelectorAll(selector)]
  .find((part) => part.getBoundingClientRect().width > 0);
"""
# Elements that reach out of the screen, but those in a box that scrolls.
OUTSIDE = """
[...document.body.querySelectorAll('*')].filter((part) => {
  const at = part.getBoundingClientRect();
  return at.width > 0 && (at.right > innerWidth + 1 || at.left < -1) && !part.closest('.scroll');
}).map((part) => part.outerHTML.slice(0, 80))
"""
SMALLEST = """
Math.min(...[...document.querySelectorAll('.plot text')]
  .map((part) => part.getBoundingClientRect())
  .filter((at) => at.width > 0).map((at) => Math.min(at.height, at.width > 12 ? 99 : at.height)))
"""


@pytest.fixture
def explained_folder(run_folder: Path, runs) -> Path:
    write_explanation(run_folder, runs.explanation("good"))
    return run_folder


@pytest.mark.parametrize("width", [1280, 700, 400])
def test_the_page_fits_the_screen_without_error_or_request(page, explained_folder, width) -> None:
    path = write_report(explained_folder)
    page.open(path, width)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(OUTSIDE) == []
    assert page.run(SMALLEST) >= 11  # of a line of text, in pixels
    assert page.problems() == []
    assert page.requests() == {path.as_uri(), "data:image/svg+xml;base64"}


@pytest.mark.parametrize("width", [1280, 400])
def test_pointing_at_a_dot_tells_of_it_and_a_click_shows_the_member(
    page, explained_folder, width
) -> None:
    page.open(write_report(explained_folder), width)
    page.run(SHOWN)
    visible = "[...document.querySelectorAll('.member')].filter(m => m.offsetHeight).length"
    assert page.run(visible) == 1
    assert page.run("shown('.member h3').textContent") == "good"  # the best one at first
    page.mouse(".front[data-member='0']", click=False)
    told = page.run("document.getElementById('hint').textContent")
    assert told.startswith("fast0.100 ms measured")
    assert page.run("shown('.member h3').textContent") == "good"
    page.mouse(".front[data-member='0']", click=True)
    assert page.run("shown('.member h3').textContent") == "fast"
    page.mouse(".tabs button[data-member='1']", click=True)
    assert page.run("shown('.member h3').textContent") == "good"
    page.run("shown(\".front[data-member='0']\").focus()")
    page.ask("Input.dispatchKeyEvent", type="keyDown", key="Enter")
    assert page.run("shown('.member h3').textContent") == "fast"
    assert page.run(visible) == 1
    assert page.problems() == []


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_a_stranger_runs_nothing_and_fits(page, evil_folder, width) -> None:
    path = write_report(evil_folder)
    page.open(path, width)
    assert page.run(OUTSIDE) == []
    page.run(SHOWN)
    page.mouse(".front[data-member]", click=False)
    assert "<script>" in page.run("document.getElementById('hint').textContent")
    assert page.problems() == []
    assert page.requests() == {path.as_uri(), "data:image/svg+xml;base64"}
    assert page.run("document.querySelectorAll('script').length") == 2


def test_a_script_that_got_in_all_the_same_would_not_run(page, run_folder) -> None:
    path = write_report(run_folder)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("<main>", "<main><script>window.harmed = 1</script>"))
    page.open(path, 1280)
    assert page.run("window.harmed") is None
    assert len(page.problems()) == 1  # the browser says that it refused it


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_a_profile_fits_and_tells_of_its_kernels(page, tmp_path, width) -> None:
    tensor = Tensor("float", (1, 1000))
    relu = Kernel("Relu", (), (tensor,), (tensor,))
    wall_ms, zeros = np.linspace(1.0, 1.1, 60), np.zeros(60, dtype=np.int64)
    samples = LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(60))
    target = Target("onnxruntime-cpu", "1.31", "fp32", 1, 1, "0123456789ab", "Toy CPU")
    kernels = tuple(KernelLatency(f"<b>{i}", relu, 0.1 + 0.2 * i, 9) for i in range(3))
    measured = NetworkMeasurement("toy", "0f" * 32, target, samples, kernels, 5000)
    path = tmp_path / "profile.html"
    overhead = Overhead(per_run_ms=0.05, per_kernel_ms=0.0, n_networks=9)
    path.write_text(profile_page(measured, overhead, timeline_bytes=[1, 2, 3]), encoding="utf-8")
    page.open(path, width)
    assert page.run(OUTSIDE) == []
    page.run(SHOWN)
    page.mouse("rect.k0[data-hint]", click=False)
    assert page.run("document.getElementById('hint').textContent").startswith("#1 Relu<b>0\n")
    assert page.problems() == [] and page.requests() == {path.as_uri()}
