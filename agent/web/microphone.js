// The microphone as a stream of 16-bit samples; the browser takes echo and noise out.

const RATES = [8000, 16000, 24000, 48000]; // that the server takes
const HIGHEST = 48000; // which every other rate is brought to

export function sentRate(sampleRate) {
  return RATES.includes(sampleRate) ? sampleRate : HIGHEST;
}

export class Microphone {
  /** Rejects with a reason for people when there is none, or it may not be used.
   *  @param {(pcm: ArrayBuffer, level: number) => void} take level: 0 to 1 */
  static async open(context, take) {
    if (!navigator.mediaDevices) {
      throw new Error("browsers lend a microphone only to pages from https:// or from this machine itself");
    }
    const wanted = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    try {
      if (context.state === "closed") throw new Error("the conversation was over before the microphone was there");
      await context.audioWorklet.addModule("web/microphone_worklet.js");
      const options = { processorOptions: { rate: sentRate(context.sampleRate) }, numberOfOutputs: 0 };
      const worklet = new AudioWorkletNode(context, "pcm", options);
      worklet.port.onmessage = ({ data }) => take(data.pcm, data.level);
      const source = context.createMediaStreamSource(stream);
      source.connect(worklet);
      return new Microphone(stream, source);
    } catch (error) {
      for (const track of stream.getTracks()) track.stop(); // nobody else could
      throw error;
    }
  }

  constructor(stream, source) {
    this.stream = stream;
    this.source = source;
  }

  /** What to do when the device goes away. */
  set onended(react) {
    this.stream.getAudioTracks()[0].onended = react;
  }

  close() {
    this.source.disconnect();
    for (const track of this.stream.getTracks()) track.stop();
  }
}
