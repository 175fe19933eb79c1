"""What the page does with sound: what it sends of the microphone, and how it is interrupted."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import AgentConfig, VoiceConfig
from agent.hearing.vad import find_vad
from tests.agent.browser import browsing
from tests.agent.harness import running
from tests.agent.scripted import ScriptedEngine, ScriptedVoice
from tests.agent.test_web import someone, type_in

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.timeout(90)]
TONE_HZ = 1_000
RECORD = """(async rate => {
    const { sentRate } = await import("/web/microphone.js");
    const context = new OfflineAudioContext(1, 2 * rate, rate);
    await context.audioWorklet.addModule("web/microphone_worklet.js");
    const options = { processorOptions: { rate: sentRate(rate) }, numberOfOutputs: 0 };
    const worklet = new AudioWorkletNode(context, "pcm", options);
    const tone = new OscillatorNode(context, { frequency: %d });
    tone.connect(worklet);
    tone.start();
    const sent = [];
    const second = new Promise(found => {
        worklet.port.onmessage = ({ data }) => {
            sent.push(...new Int16Array(data.pcm));
            if (sent.length >= sentRate(rate)) found([sentRate(rate), sent]);
        };
    });
    await context.startRendering();
    return second;
})"""
PLAY = """(async latency => {
    const { Playback } = await import("/web/playback.js");
    const context = new OfflineAudioContext(1, 24000, 24000);
    Object.defineProperty(context, "outputLatency", { value: latency });
    const playback = new Playback(context);
    const sound = ms => btoa(String.fromCharCode(...new Uint8Array(new Int16Array(24 * ms).fill(8000).buffer)));
    playback.put("first", sound(200));
    playback.finish("first");
    for (let part = 0; part < 8; part++) playback.put("second", sound(100));
    let cut = null;
    context.suspend(0.512).then(() => {
        cut = playback.drop();
        playback.put("second", sound(100)); // was under way when the server was told
        playback.finish("second");
        playback.put("third", sound(100));
        context.resume();
    });
    const heard = (await context.startRendering()).getChannelData(0);
    return [cut, [...heard]];
})"""
LISTEN = """(() => {
    window.sent = [];
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (message) {
        if (typeof message === "string") sent.push(JSON.parse(message));
        return send.call(this, message);
    };
    const connect = AudioNode.prototype.connect;
    AudioNode.prototype.connect = function (to, ...more) {
        if (to === this.context.destination) connect.call(this, (window.ear ??= new AnalyserNode(this.context)));
        return connect.call(this, to, ...more);
    };
    window.loudness = () => {
        const samples = new Float32Array(window.ear?.fftSize ?? 1);
        window.ear?.getFloatTimeDomainData(samples);
        return Math.max(...samples.map(Math.abs));
    };
    window.told = () => sent.filter(({ type }) => type === "conversation.item.truncate");
})()"""


async def test_a_microphone_of_any_rate_is_sent_at_one_that_the_server_takes() -> None:
    async with (
        running(ScriptedEngine()) as port,
        browsing("chromium", f"http://127.0.0.1:{port}/") as browser,
    ):
        for rate, wanted in ((16_000, 16_000), (44_100, 48_000), (48_000, 48_000), (96_000, 48_000)):
            sent_rate, pcm = await browser.run(f"{RECORD % TONE_HZ}({rate})")
            assert sent_rate == wanted
            samples = np.array(pcm[sent_rate // 10 : sent_rate]) / 32_767  # without its sudden beginning
            turns = 2 * np.pi * TONE_HZ * np.arange(len(samples)) / sent_rate
            tones = np.stack([np.sin(turns), np.cos(turns)], axis=1)
            parts, *_ = np.linalg.lstsq(tones, samples)
            assert np.hypot(*parts) == pytest.approx(1, abs=0.02)
            assert np.abs(samples - tones @ parts).max() < 0.01  # the same tone, and no clicks between blocks


def sounding(samples: list[float]) -> list[tuple[int, int]]:
    """First and last sample of every stretch that can be heard."""
    edges = np.flatnonzero(np.diff(np.abs(samples) > 0.01, prepend=False, append=False)).tolist()
    return list(pairwise(edges))[::2]


@pytest.mark.parametrize("latency_ms", [0, 100])
async def test_a_reply_that_is_cut_off_is_silent_and_the_milliseconds_heard_are_told(latency_ms: int) -> None:
    async with (
        running(ScriptedEngine()) as port,
        browsing("chromium", f"http://127.0.0.1:{port}/") as browser,
    ):
        cut, samples = await browser.run(f"{PLAY}({latency_ms / 1000})")
    (begin, end), (begin_again, end_again) = sounding(samples)
    assert end == 12_288  # at once, which is at 512 ms
    assert end_again - begin_again == 2_400  # the third reply alone
    heard_ms = (end - begin) / 24 - 200 - latency_ms  # of the second reply; the first was heard to its end
    assert [one["itemId"] for one in cut] == ["second"]
    assert cut[0]["heardMs"] == pytest.approx(heard_ms, abs=1)


async def test_who_types_or_speaks_into_a_reply_silences_it_and_the_server_is_told(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.replies = [["Seven "] * 1_000, ["Eight "] * 1_000]  # a minute each, which the page has at once
    engine.words = ["Fine."]
    config = AgentConfig(voice=VoiceConfig(lead_ms=60_000))
    async with (
        running(engine, config, make_vad=find_vad("silero"), voice=ScriptedVoice()) as port,
        browsing("chromium", f"http://127.0.0.1:{port}/", someone(tmp_path)) as browser,
    ):
        await browser.run(LISTEN)
        await type_in(browser, "count")
        await browser.until("loudness() && ear.context.currentTime > 1")
        await type_in(browser, "go on")
        first: dict[str, Any] = (await browser.until("told().length && told()"))[0]
        kinds = await browser.run("sent.map(({ type }) => type)")
        assert kinds[-3:] == ["conversation.item.truncate", "conversation.item.create", "response.create"]
        await browser.until("document.querySelectorAll('#turns .assistant').length == 2 && loudness()")
        begun_s = await browser.run("ear.context.currentTime")
        await browser.run("microphone.click()")
        second = (await browser.until("told().length > 1 && told()"))[1]
        await browser.until("!loudness()")
        silent_s = await browser.run("ear.context.currentTime")
        assert silent_s - begun_s < 40  # by the clock of the sound card, on which the reply goes on for a minute
        assert 0 < first["audio_end_ms"] < 1_000 * begun_s
        assert 0 < second["audio_end_ms"] < 1_000 * silent_s
        assert first["item_id"] != second["item_id"]
        await browser.until("document.querySelectorAll('#turns .assistant').length == 3")
        assert browser.complaints == [] and await browser.run("problem.hidden")  # nor does the server complain
