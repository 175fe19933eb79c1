// Spoken replies, one after the other, and how much of them was heard.

const RATE = 24000; // of replies, in Hz
const MARGIN_S = 0.08; // before the first sample, against gaps

export class Playback {
  constructor(context) {
    this.context = context;
    this.end = 0; // when what was put so far is over, on the clock of the context
    this.replies = []; // {itemId, parts: [{node, start, end}], finished}, oldest first
    this.dropped = new Set(); // item ids of replies that were cut off, of which more may be under way
  }

  /** Until all is played that there is. */
  get leftMs() {
    return Math.max(0, 1000 * (this.end - this.context.currentTime));
  }

  /** @param {string} base64 16-bit mono samples at 24 kHz */
  put(itemId, base64) {
    if (this.dropped.has(itemId)) return;
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    const samples = new Int16Array(bytes.buffer);
    if (!samples.length) return;
    const buffer = this.context.createBuffer(1, samples.length, RATE);
    buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
    const node = this.context.createBufferSource();
    node.buffer = buffer;
    node.connect(this.context.destination);
    const start = Math.max(this.end, this.context.currentTime + (this.leftMs ? 0 : MARGIN_S));
    node.start(start);
    this.end = start + buffer.duration;
    this.reply(itemId).parts.push({ node, start, end: this.end });
  }

  /** No more audio of this reply follows. */
  finish(itemId) {
    this.reply(itemId).finished = true;
  }

  reply(itemId) {
    let reply = this.replies.find((one) => one.itemId === itemId);
    if (!reply) {
      this.replies = this.replies.filter((one) => this.unheard(one, this.context.currentTime));
      this.replies.push((reply = { itemId, parts: [], finished: false }));
    }
    return reply;
  }

  unheard({ parts, finished }, now) {
    return !finished || (parts.length > 0 && parts.at(-1).end > now);
  }

  /** Fall silent; gives the replies that were cut off, and how many milliseconds of each were heard. */
  drop() {
    const now = this.context.currentTime - (this.context.outputLatency || 0);
    const cut = this.replies
      .filter((reply) => this.unheard(reply, now))
      .map(({ itemId, parts }) => {
        const heardS = parts.reduce((sum, { start, end }) => sum + Math.max(0, Math.min(now, end) - start), 0);
        return { itemId, heardMs: Math.floor(1000 * heardS) };
      });
    for (const { parts } of this.replies) for (const { node } of parts) node.stop();
    for (const { itemId } of cut) this.dropped.add(itemId);
    this.replies = [];
    this.end = 0;
    return cut;
  }
}
