"""The page as a person uses it, in headless Chromium; and its parts without one."""

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

import ditifeat
from ditifeat import InputError
from ditifeat.app.demo import Page, demo
from ditifeat.model.encoder_only import EncoderOnly
from ditifeat.model.encoders import build_encoder
from ditifeat.train.recipe import model_config
from tests.conftest import make_picture, method_recipe

PORT = 7875


@pytest.fixture(scope="module")
def page():
    return Page(ditifeat.load_encoder())


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b)).mean()


def test_the_parts_of_the_page(page):
    state, picture, ladder = page.choose(page.samples[0], "The central square")
    assert picture.size == (320, 320) and ladder.width > 4 * 128
    kept, path = page.edit(state, "all dimensions", {}, 0, 1000, 1.0)
    assert difference(kept, picture) < 3 and Image.open(path).size == (64, 64)
    for kind in page.reports:
        assert difference(page.edit(state, kind, {"Smiling": 2.0}, 0, 0, 0.0)[0], kept) > 0
    state, _ = page.other(state, page.samples[1], "The central square")
    assert difference(page.edit(state, "", {}, 0, 300, 1.0)[0], kept) > difference(
        page.edit(state, "", {}, 0, 300, 0.1)[0], kept
    )
    assert page.edit(state, "", {}, 300, 300, 1.0)[0].tobytes() == kept.tobytes()


def test_old_results_go(page, monkeypatch):
    monkeypatch.setattr("ditifeat.demo.KEPT", 2)
    monkeypatch.setattr("ditifeat.demo.STEPS", 2)
    state, *_ = page.choose(page.samples[0], "The central square")
    paths = [Path(page.edit(state, "", {}, 0, 0, 0.0)[1]) for _ in range(4)]
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_a_model_without_a_frozen_dm_is_refused(tmp_path):
    config = model_config(method_recipe("simclr"), method="contrastive")
    EncoderOnly(config, build_encoder(config.encoder, 32, 32)).save(tmp_path)
    with pytest.raises(ditifeat.DitifeatError):
        Page(ditifeat.load_encoder(tmp_path))


def test_a_port_that_is_taken_is_told():
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="--port"):
            demo(port=taken.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("gradio")
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("uploads"))}
    log = tmp_path_factory.mktemp("log") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "ditifeat", "demo", "--port", str(PORT)],
            stdout=stream,
            stderr=stream,
            env=environment,
        )
        try:
            for _ in range(240):
                time.sleep(0.5)
                assert process.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=2)
                    break
                except OSError:
                    continue
            yield process
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
    browser.get(f"http://127.0.0.1:{PORT}/")
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


def test_the_page_in_a_browser(browser, server, tmp_path):
    until(lambda: len(find(browser, "#samples img")) >= 4)
    until(lambda: find(browser, "#samples button img"))[0].click()
    first = until(lambda: source(browser, "after"))
    assert source(browser, "before") and source(browser, "ladder")
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
    assert source(browser, "after") == second and server.poll() is None

    good = tmp_path / "good.png"
    make_picture(3, 90, 80).save(good)
    # The clear button, then another file: what a person does.
    for button in find(browser, "#upload button[aria-label*='lear'], #upload button[aria-label*='emove']"):
        button.click()
    until(lambda: find(browser, "#upload input[type=file]"))[0].send_keys(str(good))
    until(lambda: source(browser, "after") not in (first, second))
    until(lambda: "cannot be read" not in find(browser, "#message")[0].text)

    browser.set_window_size(390, 1600)
    time.sleep(1)
    _shot(browser, "page-390.png")
    width, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner + 2  # nothing sticks out sideways
    asked = [entry["message"] for entry in browser.get_log("performance") if 'requestWillBeSent"' in entry["message"]]
    urls = [json.loads(message)["message"]["params"]["request"]["url"] for message in asked]
    outside = [url for url in urls if url.startswith("http") and f"127.0.0.1:{PORT}" not in url]
    assert urls and outside == []


def _shot(browser, name):
    folder = os.environ.get("DITIFEAT_SHOTS")
    if folder:
        browser.save_screenshot(os.path.join(folder, name))
