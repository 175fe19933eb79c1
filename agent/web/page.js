// What the page shows and what its buttons do. Turns are kept by the id of their item, replies by that of their response.

import { Conversation } from "./conversation.js";
import { Microphone, sentRate } from "./microphone.js";
import { Playback } from "./playback.js";

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const TRANSCRIPTION = "conversation.item.input_audio_transcription.";

let talk = null; // {conversation, context, playback, microphone}: there is a conversation
let opening = null; // resolves when there is one
let switching = null; // resolves when the microphone is on or off: a second click meanwhile opens no second one
let turns = new Map(); // item id -> row of what a person said
let replies = new Map(); // response id -> row of what the assistant said

/* ---- the conversation ---- */

async function connect() {
  return talk ?? (opening ??= open().finally(() => (opening = null)));
}

async function open() {
  const context = new AudioContext({ latencyHint: "interactive" });
  const conversation = new Conversation(take, ended);
  show("connecting");
  complain("");
  try {
    await conversation.open({ key: page.key.value, aloud: page.aloud.checked, sampleRate: sentRate(context.sampleRate) });
  } catch (error) {
    await context.close();
    throw new Error(`no conversation: ${error.message}`);
  }
  talk = { conversation, context, playback: new Playback(context), microphone: null };
  turns = new Map();
  replies = new Map();
  page.turns.replaceChildren();
  page.hint.hidden = true;
  show("connected");
  return talk;
}

function ended(why) {
  show("not connected");
  if (!talk) return; // it never began
  talk.microphone?.close();
  talk.playback.drop();
  talk.context.close();
  talk = null;
  listening(false);
  complain(`The conversation is over: ${why}.`);
}

async function startListening() {
  const { conversation, context } = await connect();
  await context.resume();
  const microphone = await Microphone.open(context, (pcm, level) => {
    conversation.sendAudio(pcm);
    page.microphone.style.setProperty("--level", level.toFixed(2));
  });
  if (talk?.context !== context) return microphone.close(); // it was over before the microphone was there
  microphone.onended = () => {
    stopListening();
    complain("The microphone is gone.");
  };
  talk.microphone = microphone;
  listening(true);
  show("listening");
}

function stopListening() {
  talk?.microphone?.close();
  if (talk) talk.microphone = null;
  talk?.conversation.send("input_audio_buffer.clear"); // what was half said
  listening(false);
  show("connected");
}

/* ---- what the server says ---- */

const REACTIONS = {
  "input_audio_buffer.speech_started": () => {
    for (const { itemId, heardMs } of talk.playback.drop()) talk.conversation.truncate(itemId, heardMs);
    show("hearing you");
  },
  "input_audio_buffer.committed": ({ item_id }) => {
    turn(item_id);
    show("thinking");
  },
  "wavllm.speaker": ({ item_id, speaker, number }) => label(turn(item_id), speaker, number),
  "wavllm.speaker.named": ({ number, name }) => {
    for (const chip of page.turns.querySelectorAll(`[data-number="${Number(number)}"]`)) chip.textContent = name;
  },
  [`${TRANSCRIPTION}delta`]: ({ item_id, delta }) => words(turn(item_id)).append(delta),
  [`${TRANSCRIPTION}completed`]: ({ item_id, transcript }) => {
    words(turn(item_id)).textContent = transcript || "(no words)";
  },
  [`${TRANSCRIPTION}failed`]: ({ item_id, error }) => note(turn(item_id), error.message),
  "conversation.item.deleted": ({ item_id }) => turns.get(item_id)?.remove(),
  "response.created": ({ response }) => replies.set(response.id, null), // a row when there is something to show
  "response.output_text.delta": ({ response_id, delta }) => words(reply(response_id)).append(delta),
  "response.output_audio_transcript.delta": ({ response_id, delta }) => words(reply(response_id)).append(delta),
  "response.output_audio.delta": ({ item_id, delta }) => {
    talk.playback.put(item_id, delta);
    show("speaking");
  },
  "response.output_audio.done": ({ item_id }) => talk.playback.finish(item_id),
  "wavllm.function": ({ response_id, name, status, error }) => {
    if (status !== "in_progress") note(reply(response_id), `${name}: ${error ? error.message : "done"}`);
  },
  "response.done": ({ response, wavllm_latency }) => {
    if (wavllm_latency?.first_token_ms != null) note(reply(response.id), timing(wavllm_latency));
    const { reason, error, type } = response.status_details ?? {};
    if (response.status !== "completed") note(reply(response.id), error?.message ?? reason ?? type ?? response.status);
    rest();
  },
  error: ({ error }) => complain(error.message),
};

function take(event) {
  if (talk) REACTIONS[event.type]?.(event);
}

function timing({ vad_wait_ms, first_token_ms }) {
  const first = `first word ${Math.round(first_token_ms)} ms`;
  return vad_wait_ms == null ? first : `waited ${Math.round(vad_wait_ms)} ms for the end of speech, ${first} after it`;
}

/** Say that nobody speaks any more, as soon as that is so by the clock of the sound card, which is not the timers'. */
function rest() {
  if (!talk || !["thinking", "speaking"].includes(page.state.textContent)) return;
  if (talk.playback.leftMs) setTimeout(rest, talk.playback.leftMs);
  else show(talk.microphone ? "listening" : "connected");
}

/* ---- rows ---- */

function row(kind) {
  const item = document.createElement("li");
  item.className = kind;
  for (const name of ["who", "words", "note"]) {
    const part = document.createElement(name === "who" ? "button" : "p");
    part.className = name;
    item.append(part);
  }
  item.querySelector(".who").disabled = true;
  page.turns.append(item);
  return item;
}

function turn(itemId) {
  if (!turns.has(itemId)) {
    turns.set(itemId, row("person"));
    words(turns.get(itemId)).textContent = "";
    label(turns.get(itemId), "you");
  }
  return turns.get(itemId);
}

function reply(responseId) {
  if (!replies.get(responseId)) {
    replies.set(responseId, row("assistant"));
    label(replies.get(responseId), "assistant");
  }
  return replies.get(responseId);
}

/** A voice that has a number can be given a name, by pressing it. */
function label(item, name, number) {
  const chip = item.querySelector(".who");
  chip.textContent = name;
  if (number == null) return;
  chip.disabled = false;
  chip.dataset.number = number;
  chip.title = "give this voice a name";
  chip.onclick = () => {
    const called = prompt("What is this person called?", "")?.trim();
    if (called) talk?.conversation.send("wavllm.speaker.name", { number, name: called });
  };
}

function words(item) {
  return item.querySelector(".words");
}

function note(item, text) {
  const notes = item.querySelector(".note");
  notes.textContent += (notes.textContent && " · ") + text;
}

/* ---- the rest of the page ---- */

function show(state) {
  page.state.textContent = state;
}

function complain(text) {
  page.problem.textContent = text;
  page.problem.hidden = !text;
}

function listening(on) {
  page.microphone.setAttribute("aria-pressed", on);
  page.microphone.setAttribute("aria-label", on ? "Stop listening" : "Talk");
  page.microphone.title = on ? "Stop listening" : "Talk";
  page.microphone.style.setProperty("--level", 0);
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    if (!talk) show("not connected");
    complain(error.message);
  }
}

page.microphone.onclick = () => {
  const toggle = async () => (talk?.microphone ? stopListening() : startListening());
  switching ??= attempt(toggle).finally(() => (switching = null));
};

page.typing.onsubmit = (submitted) => {
  submitted.preventDefault();
  const text = page.text.value.trim();
  if (!text) return;
  attempt(async () => {
    const { conversation, context, playback } = await connect();
    await context.resume();
    for (const { itemId, heardMs } of playback.drop()) conversation.truncate(itemId, heardMs);
    const item = row("person");
    label(item, "you");
    words(item).textContent = text;
    page.text.value = "";
    conversation.say(text);
  });
};

new ResizeObserver(() => page.turns.lastElementChild?.scrollIntoView({ block: "end" })).observe(page.turns);

page.aloud.onchange = page.key.onchange = () => talk?.conversation.close(); // what is set counts for the next one
