"""The page with a microphone: what a browser is given, and what happens in a real one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.config import AgentConfig, ServerConfig
from agent.hearing.vad import find_vad
from agent.web.pages import CONTENT_TYPES, read_pages
from clients.demo.run import FOLDER
from tests.agent.browser import Browser, browsing
from tests.agent.harness import get, running
from tests.agent.scripted import ScriptedEngine, ScriptedVoice
from tests.agent.test_transport import KEYS

ROWS = "[...document.querySelectorAll('#turns li')].map(row => [row.className, ...row.innerText.trim().split(/\\n+/)])"


async def test_a_browser_gets_the_page_and_all_that_it_names() -> None:
    async with running(ScriptedEngine(), keys=KEYS) as port:  # the page needs no key, its conversations do
        status, headers, page = await get(port, "/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert headers["content-security-policy"].startswith("default-src 'self';")
        named = re.findall(r'(?:href|src)="([^"]+)"', page)
        for name in CONTENT_TYPES:
            if name.endswith(".js"):
                text = (await get(port, f"/web/{name}"))[2]
                named += [f"web/{one}" for one in re.findall(r'from "\./([^"]+)"', text)]
                named += re.findall(r'"(web/[^"]+)"', text)
        assert {f"/{name}" for name in named} == set(read_pages()) - {"/"}
        for name in named:
            status, headers, text = await get(port, f"/{name}")
            assert (status, headers["x-content-type-options"], bool(text)) == (200, "nosniff", True)
            assert headers["content-type"] == CONTENT_TYPES[name.removeprefix("web/")]


async def test_nothing_else_is_given_away() -> None:
    async with running(ScriptedEngine()) as port:
        for path in ("/web/", "/web/pages.py", "/web/../config.py", "/web/%2e%2e/config.py", "/index.html", "//"):
            status, _, told = await get(port, path)
            assert (status, told) == (404, "there is /, /v1/realtime, /healthz, /readyz and /metrics\n")


async def test_an_operator_can_do_without_the_page() -> None:
    async with running(ScriptedEngine(), AgentConfig(server=ServerConfig(page=False))) as port:
        assert (await get(port, "/"))[0] == (await get(port, "/web/page.js"))[0] == 404


def someone(folder: Path) -> Path:
    """A recorded person who says one thing, once, as a microphone hears it."""
    pcm, rate = soundfile.read(FOLDER / "clips" / "wake_computer.flac", dtype="int16")
    soundfile.write(folder / "someone.wav", np.concatenate([np.zeros(rate, np.int16), pcm]), rate)
    return Path(f"{folder / 'someone.wav'}%noloop")


async def type_in(browser: Browser, text: str) -> None:
    await browser.run(f"text.value = {json.dumps(text)}; typing.requestSubmit()")


@pytest.mark.needs("chromium")
@pytest.mark.timeout(90)
async def test_somebody_talks_types_and_gets_a_name(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.words = ["Good ", "evening."]
    async with (
        running(engine, make_vad=find_vad("silero"), voice=ScriptedVoice()) as port,
        browsing("chromium", f"http://127.0.0.1:{port}/", someone(tmp_path)) as browser,
    ):
        await browser.run("microphone.click()")
        await browser.until("document.querySelectorAll('#turns li').length == 2")
        await browser.until("document.querySelector('.assistant .note')?.innerText.includes('first word')")
        said, answered = await browser.run(ROWS)
        assert said[:2] == ["person", "speaker 1"] and said[2].startswith("voice ")
        assert answered[:3] == ["assistant", "assistant", "Good evening."]
        assert await browser.until("state.innerText == 'listening'")  # the reply was played to its end
        await browser.run("window.prompt = () => 'Kim'; document.querySelector('.person .who').click()")
        await browser.until("document.querySelector('.person .who').innerText == 'Kim'")
        await browser.run("microphone.click()")
        await browser.until("state.innerText == 'connected'")
        await type_in(browser, "<b>what</b> did i order")
        await browser.until("document.querySelectorAll('#turns .assistant .note').length == 2")
        assert (await browser.run(ROWS))[2] == ["person", "you", "<b>what</b> did i order"]  # text, never markup
        assert browser.complaints == []


@pytest.mark.needs("chromium")
@pytest.mark.timeout(90)
async def test_a_browser_is_told_why_there_is_no_conversation() -> None:
    async with (
        running(ScriptedEngine(), keys=KEYS) as port,
        browsing("chromium", f"http://127.0.0.1:{port}/") as browser,
    ):
        await type_in(browser, "hello")
        assert "wants another key" in await browser.until("problem.innerText")
        assert await browser.run("[state.innerText, text.value]") == ["not connected", "hello"]  # nothing is lost
        await browser.run("key.value = 'a-secret-of-the-kitchen'")
        await type_in(browser, "hello")
        await browser.until("document.querySelectorAll('#turns .assistant .note').length == 1")
        assert await browser.run("problem.hidden")


@pytest.mark.needs("chromium")
@pytest.mark.timeout(90)
async def test_no_microphone_stays_open_that_nobody_can_close() -> None:
    async with (
        running(ScriptedEngine()) as port,
        browsing("chromium", f"http://127.0.0.1:{port}/") as browser,
    ):
        await browser.run("""(() => {
            const media = navigator.mediaDevices, lend = media.getUserMedia.bind(media);
            window.lent = [], window.allowed = Promise.resolve();
            media.getUserMedia = async (wanted) => {
                window.asked = true;
                await allowed;
                lent.push(await lend(wanted));
                return lent.at(-1);
            };
        })()""")
        await browser.run("microphone.click(), microphone.click()")
        await browser.until("state.innerText == 'listening'")
        await browser.run("microphone.click()")
        await browser.until("state.innerText == 'connected'")
        await browser.run("window.asked = false, window.allowed = new Promise((allow) => (window.allow = allow)), 0")
        await browser.run("microphone.click()")
        await browser.until("asked")
        await browser.run("aloud.click()")  # ends the conversation while the browser asks the person
        await browser.until("state.innerText == 'not connected'")
        await browser.run("allow()")
        await browser.until("lent.length == 2")
        await browser.until("lent.every((one) => one.getTracks().every((track) => track.readyState == 'ended'))")
        await type_in(browser, "hello")  # the next conversation has nothing of it
        await browser.until("document.querySelectorAll('#turns .assistant .note').length == 1")
        assert (await browser.run("lent.length"), browser.complaints) == (2, [])
