"use strict";
// Sound: recorded, written, drawn and played. The page loads this file as a script, and into a worklet for its processor.

const RATE = 16000;
const SILENCE = 0.001;
const SHORTEST = 0.1;

let recording = null;
let playing = null;

if (globalThis.AudioWorkletProcessor) {
  /** Hands on every block of the microphone, which the graph has made mono. */
  class Recorder extends AudioWorkletProcessor {
    process([input]) {
      if (input.length) this.port.postMessage(input[0].slice());
      return true;
    }
  }
  registerProcessor("recorder", Recorder);
}

// The microphone

/** Opens the microphone; `hear` is given every block and its rate, `lost` is called if the microphone goes. */
async function openMicrophone(hear, lost) {
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  const release = () => stream.getTracks().forEach((track) => track.stop());
  try {
    // Firefox takes a microphone only at its own rate.
    const context = await connect(stream, hear, { sampleRate: RATE }).catch(() => connect(stream, hear, {}));
    stream.getTracks()[0].onended = lost;
    return { rate: context.sampleRate, close: () => { release(); context.close(); } };
  } catch (error) {
    release();
    throw error;
  }
}

async function connect(stream, hear, options) {
  const context = new AudioContext(options);
  try {
    const source = context.createMediaStreamSource(stream);
    await context.audioWorklet.addModule("/recorder.js");
    const node = new AudioWorkletNode(context, "recorder", { channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => hear(data, context.sampleRate);
    // What leads nowhere is not run everywhere; what the node puts out is silence.
    source.connect(node).connect(context.destination);
    await context.resume();
    return context;
  } catch (error) {
    context.close();
    throw error;
  }
}

function troubleOf({ name }) {
  const instead = "or choose a sound instead.";
  const known = {
    NotAllowedError: `This page may not use the microphone. Allow it in the browser, ${instead}`,
    NotFoundError: `No microphone was found. Plug one in, ${instead}`,
    NotReadableError: `Another program holds the microphone. Close it, ${instead}`,
  };
  return known[name] || `The microphone cannot be opened (${name}). Try again, ${instead}`;
}

// Samples

function join(blocks) {
  const whole = new Float32Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let end = 0;
  for (const block of blocks) {
    whole.set(block, end);
    end += block.length;
  }
  return whole;
}

async function resample(samples, rate) {
  if (rate === RATE || !samples.length) return samples;
  const offline = new OfflineAudioContext(1, Math.ceil((samples.length * RATE) / rate), RATE);
  const buffer = offline.createBuffer(1, samples.length, rate);
  buffer.copyToChannel(samples, 0);
  const source = offline.createBufferSource();
  source.buffer = buffer;
  source.connect(offline.destination);
  source.start();
  return (await offline.startRendering()).getChannelData(0);
}

/** A WAV file of 16 kHz, mono, 16 bits. */
function toWav(samples) {
  const bytes = 2 * samples.length;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const text = (at, letters) => [...letters].forEach((letter, place) => view.setUint8(at + place, letter.charCodeAt(0)));
  const long = (at, value) => view.setUint32(at, value, true);
  const short = (at, value) => view.setInt16(at, value, true);
  text(0, "RIFF");
  long(4, 36 + bytes);
  text(8, "WAVEfmt ");
  long(16, 16);
  [1, 1].forEach((value, place) => short(20 + 2 * place, value));
  long(24, RATE);
  long(28, 2 * RATE);
  [2, 16].forEach((value, place) => short(32 + 2 * place, value));
  text(36, "data");
  long(40, bytes);
  const whole = (value) => Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
  samples.forEach((value, place) => short(44 + 2 * place, whole(value)));
  return new Blob([view], { type: "audio/wav" });
}

/** The samples of a sound file at 16 kHz, its channels averaged. */
async function decode(bytes) {
  const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
  const channels = Array.from({ length: sound.numberOfChannels }, (_, place) => sound.getChannelData(place));
  return channels[0].map((_, place) => channels.reduce((sum, channel) => sum + channel[place], 0) / channels.length);
}

const peak = (samples) => samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

function peaks(samples, count) {
  const edge = (place) => Math.floor((place * samples.length) / count);
  return Array.from({ length: count }, (_, place) => peak(samples.subarray(edge(place), edge(place + 1))));
}

const barsOf = (canvas) => Math.floor(canvas.clientWidth / 5);

/** Bars of a sound, those to come paler than those that were heard. */
function drawBars(canvas, levels, heard = 1) {
  const [width, height, pen] = [canvas.clientWidth, canvas.clientHeight, canvas.getContext("2d")];
  canvas.width = width * devicePixelRatio;
  canvas.height = height * devicePixelRatio;
  pen.scale(devicePixelRatio, devicePixelRatio);
  pen.fillStyle = getComputedStyle(canvas).color;
  levels.forEach((level, place) => {
    const tall = Math.max(3, Math.sqrt(level) * height);
    pen.globalAlpha = place < heard * levels.length ? 1 : 0.35;
    pen.beginPath();
    pen.roundRect(width - 5 * (levels.length - place), (height - tall) / 2, 3, tall, 1.5);
    pen.fill();
  });
}

// Recording

async function startRecording() {
  stopPlaying();
  get("alert").textContent = "";
  const mine = (recording = { blocks: [], count: 0, level: 0, levels: [], drawn: 0 });
  showRecording();
  try {
    const microphone = await openMicrophone((block, rate) => hear(mine, block, rate), finishRecording);
    if (recording !== mine) return microphone.close();
    mine.microphone = microphone;
    requestAnimationFrame((now) => drawRecording(mine, now));
  } catch (error) {
    if (recording !== mine) return undefined;
    cancelRecording();
    complain(new Refusal(troubleOf(error)));
  }
  return undefined;
}

function hear(mine, block, rate) {
  if (recording !== mine) return;
  mine.blocks.push(block);
  mine.count += block.length / rate;
  mine.level = Math.max(mine.level, peak(block));
  if (mine.microphone && mine.count >= about.limits.seconds) finishRecording();
}

function drawRecording(mine, now) {
  if (recording !== mine) return;
  if (now - mine.drawn >= 50) {
    get("record").style.setProperty("--level", Math.sqrt(mine.level).toFixed(2));
    get("status").textContent = `Listening  ${clock(mine.count)} of ${clock(about.limits.seconds)}`;
    const bars = barsOf(get("live"));
    mine.levels = [...mine.levels, mine.level].slice(-bars);
    drawBars(get("live"), [...Array(bars - mine.levels.length).fill(0), ...mine.levels]);
    [mine.level, mine.drawn] = [0, now];
  }
  requestAnimationFrame((next) => drawRecording(mine, next));
}

function showRecording() {
  get("record").classList.toggle("on", Boolean(recording));
  get("record").closest("section").classList.toggle("on", Boolean(recording));
  get("record").style.setProperty("--level", 0);
  get("record-name").textContent = recording ? "Stop and search" : "Record";
  get("status").textContent = recording ? "Opening the microphone" : "Press and speak";
}

function cancelRecording() {
  recording?.microphone?.close();
  recording = null;
  if (navigator.mediaDevices) showRecording();
}

async function finishRecording() {
  const mine = recording;
  const signal = begin();
  if (!mine?.microphone) return;
  const all = await resample(join(mine.blocks), mine.microphone.rate);
  const samples = all.subarray(0, about.limits.seconds * RATE);
  if (signal.aborted) return;
  if (samples.length < SHORTEST * RATE) complain(new Refusal("That was too short. Press, speak, and press again."));
  else if (peak(samples) < SILENCE) complain(new Refusal("Nothing was heard. Is the microphone muted?"));
  else await askFile(new File([toWav(samples)], "What you said", { type: "audio/wav" }), "speech");
}

function toggleRecording() {
  if (get("record").disabled) return;
  if (recording) finishRecording();
  else startRecording();
}

// Playing

function nameOf(button, what) {
  button.dataset.what = what;
  button.setAttribute("aria-label", `Play: ${what}`);
}

function makePlay(button, url, what, follow = () => {}) {
  nameOf(button, what);
  button.onclick = () => {
    const again = playing?.button !== button;
    stopPlaying();
    if (again) play({ button, url, follow });
  };
  return button;
}

function play(sound) {
  playing = sound;
  sound.button.classList.add("on");
  sound.button.setAttribute("aria-label", `Stop: ${sound.button.dataset.what}`);
  player.src = sound.url;
  player.play().catch((error) => {
    if (error.name === "AbortError" || playing !== sound) return;
    stopPlaying();
    complain(new Refusal("This sound cannot be played here."), get(get("look").open ? "look-alert" : "alert"));
  });
  const step = () => {
    if (playing !== sound) return;
    showPlayed(player.currentTime);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

function showPlayed(time) {
  playing.button.style.setProperty("--played", time / player.duration || 0);
  playing.follow(time, time / player.duration || 0);
}

function stopPlaying() {
  if (!playing) return;
  const { button, follow } = playing;
  playing = null;
  player.pause();
  button.classList.remove("on");
  button.style.setProperty("--played", 0);
  nameOf(button, button.dataset.what);
  follow(null, 1);
}
