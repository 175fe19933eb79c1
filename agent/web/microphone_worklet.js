// Runs beside the sound card: floats in, blocks of 16-bit samples at the wanted rate out.

const BLOCK_MS = 40;

class Pcm extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    this.step = sampleRate / rate; // input samples for one output sample
    this.block = new Int16Array((rate * BLOCK_MS) / 1000);
    this.filled = 0;
    this.place = 0; // of the next output sample, in input samples from `last` on
    this.last = 0; // the last sample of the block before
    this.peak = 0;
  }

  process([[samples]]) {
    if (!samples) return true; // the source is not there yet
    let place = this.place;
    for (; place < samples.length; place += this.step) {
      const before = Math.floor(place); // linear between two samples; the sample before the block counts as number 0
      const left = before === 0 ? this.last : samples[before - 1];
      this.put(left + (samples[before] - left) * (place - before));
    }
    this.place = place - samples.length;
    this.last = samples[samples.length - 1];
    return true;
  }

  put(sample) {
    const clipped = Math.max(-1, Math.min(1, sample));
    this.peak = Math.max(this.peak, Math.abs(clipped));
    this.block[this.filled++] = clipped * 32767;
    if (this.filled < this.block.length) return;
    const pcm = this.block.slice().buffer;
    this.port.postMessage({ pcm, level: this.peak }, [pcm]);
    this.filled = 0;
    this.peak = 0;
  }
}

registerProcessor("pcm", Pcm);
