"""The page as a person uses it, in headless Chromium; and its server."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ditifeat import InputError
from ditifeat.align.geometry import warp
from ditifeat.app.demo import Demo
from ditifeat.app.page import serve
from tests.align.conftest import make_photo
from tests.conftest import make_image

gradio = pytest.importorskip("gradio")

slow = pytest.mark.slow


@slow
def test_a_port_that_is_taken_is_told(tiny_encoder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="--port"):
            serve(Demo(tiny_encoder), port=taken.getsockname()[1])


def free_port():
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    port = free_port()
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("uploads"))}
    log = tmp_path_factory.mktemp("log") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.app.blocked", f"demo --port {port}"],
            stdout=stream,
            stderr=stream,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        try:
            for _ in range(240):
                time.sleep(0.5)
                assert process.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2)
                    break
                except OSError:
                    continue
            yield process, port, log
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def browser(server):
    webdriver = pytest.importorskip("selenium.webdriver")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not chromium:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.get(f"http://127.0.0.1:{server[1]}/")
    yield browser
    browser.quit()


def until(what, seconds=120):
    for _ in range(seconds * 4):
        try:
            found = what()
            if found:
                return found
        except Exception:  # elements come and go while the page draws itself anew
            pass
        time.sleep(0.25)
    raise AssertionError("the page did not come to what was waited for")


def find(browser, css):
    return browser.find_elements("css selector", css)


def source(browser, name):
    found = find(browser, f"#{name} img")
    return found[0].get_attribute("src") if found else None


@slow
def test_the_page_in_a_browser(browser, server, tmp_path):
    until(lambda: len(find(browser, "#samples img")) >= 4)
    until(lambda: find(browser, "#samples button img"))[0].click()
    first = until(lambda: source(browser, "after"))
    assert source(browser, "before") and source(browser, "lost")
    _shot(browser, "page-1280.png")

    number = until(lambda: find(browser, "#slider0 input[type=range]"))[0]
    browser.execute_script(
        "const s = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set; s.call(arguments[0], 2);"
        "for (const kind of ['input', 'change', 'pointerup']) arguments[0].dispatchEvent(new Event(kind, {bubbles: true}));",
        number,
    )
    second = until(lambda: source(browser, "after") != first and source(browser, "after"))

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no picture")
    find(browser, "#upload input[type=file]")[0].send_keys(str(broken))
    until(lambda: "cannot be read" in find(browser, "#message")[0].text)
    assert source(browser, "after") == second and server[0].poll() is None

    photo, similarity = make_photo(2, side=300, angle=25, place=(400, 260), size=(800, 600))
    photo.save(tmp_path / "photo.png")
    before = source(browser, "before")
    _upload(browser, tmp_path / "photo.png")
    shown = until(lambda: source(browser, "before") != before and source(browser, "before"))
    assert _off(shown, photo, similarity) < 20  # the photo's central square, not aligned, is 46 off
    third = until(lambda: source(browser, "after") not in (first, second) and source(browser, "after"))
    _shot(browser, "page-photo.png")

    make_image(3, 90, 80).save(tmp_path / "scene.png")
    _upload(browser, tmp_path / "scene.png")
    until(lambda: "shows no face" in find(browser, "#message")[0].text)
    assert source(browser, "after") == third
    find(browser, "#cut input[type=radio]")[1].click()
    until(lambda: source(browser, "after") not in (first, second, third))
    until(lambda: "no face" not in find(browser, "#message")[0].text)

    browser.set_window_size(390, 1600)
    time.sleep(1)
    _shot(browser, "page-390.png")
    width, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner + 2  # nothing sticks out sideways
    asked = [entry["message"] for entry in browser.get_log("performance") if 'requestWillBeSent"' in entry["message"]]
    urls = [json.loads(message)["message"]["params"]["request"]["url"] for message in asked]
    outside = [url for url in urls if url.startswith("http") and f"127.0.0.1:{server[1]}" not in url]
    assert urls and outside == []
    assert "REPORTS HOME" not in server[2].read_text()


def _upload(browser, path):
    """The clear button, then another file: what a person does."""
    for button in find(browser, "#upload button[aria-label*='lear'], #upload button[aria-label*='emove']"):
        button.click()
    until(lambda: find(browser, "#upload input[type=file]"))[0].send_keys(str(path))


def _off(url, photo, similarity):
    """Mean difference of the shown image from the face where it was put into the photo, of 255."""
    with urllib.request.urlopen(url) as answer:
        shown = Image.open(io.BytesIO(answer.read())).convert("RGB").resize((128, 128), Image.Resampling.BOX)
    face = warp(photo, similarity.inverse, 178, 218).crop((25, 57, 153, 185))
    blurred = [np.asarray(image.resize((32, 32), Image.Resampling.BOX), int) for image in (shown, face)]
    return np.abs(blurred[0] - blurred[1]).mean()


def _shot(browser, name):
    folder = os.environ.get("DITIFEAT_SHOTS")
    if folder:
        browser.save_screenshot(os.path.join(folder, name))
