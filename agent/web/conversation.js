// A conversation with the server over OpenAI Realtime. Owns the socket and the spelling of what is sent; shows nothing.

const BROWSER_KEY = "openai-insecure-api-key.";

export class Conversation {
  /** @param {(event: object) => void} hear takes every event of the server
   *  @param {(why: string) => void} lost is told once when the connection ends, however it does */
  constructor(hear, lost) {
    this.hear = hear;
    this.lost = lost;
    this.speaks = false; // whether replies come as audio
  }

  /** Resolves when the session is as wanted; rejects with the reason why there is none. */
  open({ key, aloud, sampleRate }) {
    const address = new URL("v1/realtime", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(address, ["realtime", ...(key ? [BROWSER_KEY + key] : [])]);
    this.socket.binaryType = "arraybuffer";
    return new Promise((resolve, reject) => {
      this.socket.onclose = ({ code, reason }) => {
        const why = code === 1006 ? "the server cannot be reached, is full, or wants another key" : reason || `code ${code}`;
        reject(new Error(why)); // of no effect once the session is open
        this.lost(why);
      };
      this.socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "session.created") {
          this.speaks = aloud && "output" in (event.session.audio ?? {});
          this.configure(sampleRate);
        } else if (event.type === "session.updated") {
          resolve();
        }
        this.hear(event);
      };
    });
  }

  /** An empty `wavllm` asks for the server's own events, those of speakers among them. */
  configure(sampleRate) {
    const format = { type: "audio/pcm", rate: sampleRate };
    const modalities = [this.speaks ? "audio" : "text"];
    this.send("session.update", {
      session: { type: "realtime", output_modalities: modalities, audio: { input: { format } }, wavllm: {} },
    });
  }

  send(type, fields = {}) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  /** @param {ArrayBuffer} pcm 16-bit little-endian mono samples */
  sendAudio(pcm) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(pcm);
  }

  say(text) {
    const content = [{ type: "input_text", text }];
    this.send("conversation.item.create", { item: { type: "message", role: "user", content } });
    this.send("response.create");
  }

  /** Tell how much of a spoken reply was heard before it was cut off. */
  truncate(itemId, heardMs) {
    this.send("conversation.item.truncate", { item_id: itemId, content_index: 0, audio_end_ms: heardMs });
  }

  close() {
    this.socket.close(1000);
  }
}
