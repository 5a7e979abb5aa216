"use strict";

const RESULTS = 12;
const TRIES = 5;
// What the server reads as it is. Anything else the browser turns into WAV, if it can.
const READ = /\.(wave?|flac|mp3)$/i;
const SOUNDS = /\.(wave?|flac|og[ga]|opus|mp3|m4a|aac|webm|aiff?)$/i;
const PICTURES = /\.(png|jpe?g|webp|gif|bmp|tiff?)$/i;

const get = (id) => document.getElementById(id);
const plural = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
const clock = (time) => `${Math.floor(time / 60)}:${String(Math.floor(time % 60)).padStart(2, "0")}`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1).replace(/\.0$/, "")} MB`;
const player = get("player");
const still = matchMedia("(prefers-reduced-motion: reduce)");

let about = { attention: false, keywords: false, text: false, examples: [], pictures: [], limits: { bytes: 16e6, seconds: 60, results: RESULTS } };
let asking = new AbortController();
let asked = null;
let looking = null;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// The server

/** A sentence to be shown as it is. */
class Refusal extends Error {}

function complain(error, alert = get("alert")) {
  alert.textContent = error instanceof Refusal ? error.message : "The answer of the server cannot be read.";
}

async function send(path, signal, body) {
  const headers = body && { "Content-Type": body.type.replace(/^(video|application)\//, "audio/") || "audio/wav" };
  try {
    return await fetch(path, body ? { method: "POST", body, headers, signal } : { signal });
  } catch {
    signal.throwIfAborted();
    throw new Refusal("The server does not answer. Is it still running?");
  }
}

async function refusal(reply) {
  const { error } = await reply.json().catch(() => ({}));
  return new Refusal(error || `The server answered with status ${reply.status}.`);
}

function wait(time, signal) {
  return new Promise((done, fail) => {
    setTimeout(done, time * 1000);
    signal.addEventListener("abort", () => fail(signal.reason), { once: true });
  });
}

/** What the server answers; one that is busy is asked again. */
async function call(path, signal, { body, alert = get("alert") } = {}) {
  for (let tries = 1; ; tries += 1) {
    const reply = await send(path, signal, body);
    if (reply.status !== 503 || tries === TRIES) {
      if (!reply.ok) throw await refusal(reply);
      alert.textContent = "";
      return reply.json();
    }
    const time = Math.min(Number(reply.headers.get("Retry-After")) || 1, 30);
    alert.textContent = `The server is busy. Trying again in ${time} s.`;
    await wait(time, signal);
  }
}

// Asking

function begin() {
  asking.abort();
  asking = new AbortController();
  cancelRecording();
  stopPlaying();
  get("look").close();
  get("alert").textContent = "";
  get("results").setAttribute("aria-busy", "false");
  return asking.signal;
}

function pathOf({ id, words }) {
  const path = id === undefined ? "/api/search" : `/api/items/${id}/search`;
  const text = words ? `&text=${encodeURIComponent(words)}` : "";
  return `${path}?k=${Math.min(RESULTS, about.limits.results)}${text}`;
}

async function ask(query, signal = begin()) {
  if (asked?.body) URL.revokeObjectURL(asked.url);
  asked = query;
  showAsked(query);
  get("results").setAttribute("aria-busy", "true");
  try {
    const answer = await call(pathOf(query), signal, query);
    if (signal.aborted) return;
    showFound(answer);
    if (about.keywords && query.medium === "speech") showHeard(query, signal);
  } catch (error) {
    if (signal.aborted) return;
    complain(error);
    get("results-title").textContent = "No answer";
  }
  if (!signal.aborted) get("results").setAttribute("aria-busy", "false");
}

function mediumOf({ name, type }) {
  if (/^(audio|video)\//.test(type) || SOUNDS.test(name)) return "speech";
  return /^image\//.test(type) || PICTURES.test(name) ? "image" : null;
}

const isRead = ({ name, type }) => READ.test(name) || type === "audio/wav";
const readable = (file) => (isRead(file) ? file : file.arrayBuffer().then(decode).then(toWav).catch(() => file));

async function askFile(file, medium = mediumOf(file)) {
  const signal = begin();
  if (!medium) return complain(new Refusal(`${file.name} is neither a sound nor a picture.`));
  const body = medium === "speech" ? await readable(file) : file;
  if (signal.aborted) return undefined;
  const most = about.limits.bytes;
  if (body.size > most) return complain(new Refusal(`${file.name} has ${megabytes(body.size)}. Up to ${megabytes(most)} are taken.`));
  return ask({ medium, body, url: URL.createObjectURL(body), name: file.name }, signal);
}

const askWords = (words) => ask({ medium: "text", words, said: words });

const askItem = ({ id, medium, said, name, sound, picture }) => ask({ id, medium, said, name, url: sound || picture });

const quote = (said) => `“${said}”`;
const spanOf = ({ from, to }) => `${from.toFixed(2)} s to ${to.toFixed(2)} s`;
const titleOf = ({ said, name }) => (said ? quote(said) : name);

function showAsked(query) {
  const [spoken, seen] = [query.medium === "speech", query.medium === "image"];
  get("results").hidden = false;
  get("replay").hidden = get("asked-wave").hidden = !spoken;
  get("asked-picture").hidden = !seen;
  get("asked-text").textContent = titleOf(query);
  get("results-title").textContent = seen ? "Captions that fit" : "Pictures that fit";
  get("told").textContent = "";
  get("heard").hidden = true;
  get("heard-alert").textContent = "";
  get("keywords").replaceChildren();
  get("found").replaceChildren();
  if (spoken) showWave(query);
  else if (seen) get("asked-picture").src = query.body ? query.url : `${query.url}?side=192`;
  get("results").scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
}

async function showWave(query) {
  const canvas = get("asked-wave");
  let levels = Array(barsOf(canvas)).fill(0);
  const follow = (_, heard) => drawBars(canvas, levels, heard);
  follow(null, 1);
  makePlay(get("replay"), query.url, titleOf(query), follow);
  try {
    const sound = query.body || (await fetch(query.url));
    const found = peaks(await decode(await sound.arrayBuffer()), levels.length);
    if (asked !== query) return;
    levels = found.map((level) => level / (Math.max(...found) || 1));
    follow(null, 1);
  } catch {
    // A sound that the browser cannot read stays a line.
  }
}

function showFound({ query, found, milliseconds }) {
  const seen = query.medium === "image";
  const told = plural(found.length, found[0]?.medium === "speech" || (!found.length && seen) ? "spoken caption" : "picture");
  get("told").textContent = `${told} found in ${Math.max(1, Math.round(milliseconds))} ms`;
  const lasts = query.seconds ? ` ${query.seconds.toFixed(1)} s` : query.cut ? " too long: only its beginning was read" : "";
  get("asked-text").append(make("span", { className: "note", textContent: lasts }));
  get("found").classList.toggle("speech", found.some((item) => item.medium === "speech"));
  const card = (item, rank) => (item.medium === "image" ? pictureCard : soundCard)(item, rank);
  get("found").replaceChildren(...found.map((item, place) => make("li", {}, card(item, place + 1))));
}

/** The keywords of an utterance, each of which asks. */
async function showHeard(query, signal) {
  const path = query.id === undefined ? "/api/keywords" : `/api/items/${query.id}/keywords`;
  try {
    const { keywords } = await call(path, signal, { body: query.body, alert: get("heard-alert") });
    if (signal.aborted) return;
    get("keywords").replaceChildren(...keywords.map((keyword) => make("li", {}, keywordButton(keyword))));
    get("heard").hidden = !keywords.length;
  } catch (error) {
    if (signal.aborted) return;
    complain(error, get("heard-alert"));
    get("heard").hidden = false;
  }
}

/** What is part of a letter, and so no word, asks nothing. */
function keywordButton({ word, from, to }) {
  const disabled = /^#\d+$/.test(word);
  return make("button", { type: "button", textContent: word, title: spanOf({ from, to }), disabled, onclick: () => askWords(word) });
}

const rankAndScore = (rank, score) => [
  make("span", { className: "rank", textContent: rank }),
  make("span", { className: "score", textContent: score.toFixed(2), title: "Score" }),
];

function pictureCard(item, rank) {
  const looks = about.attention && asked.medium === "speech";
  const image = make("img", { src: `${item.picture}?side=256`, alt: looks ? "" : `Picture ${item.name}`, width: 256, height: 256 });
  const line = make("span", { className: "line" }, ...rankAndScore(rank, item.score));
  const card = make(looks ? "button" : "div", { className: "card" }, image, line);
  if (looks) {
    card.ariaLabel = `${rank}, score ${item.score.toFixed(2)}: where it looks in ${item.name}`;
    card.onclick = () => openLook(item);
  }
  return card;
}

function soundCard(item, rank) {
  const button = makePlay(make("button", { className: "play" }), item.sound, titleOf(item));
  const spoken = make("div", { className: "spoken" }, button, make("p", { textContent: titleOf(item) }));
  return make("div", { className: "card" }, spoken, make("span", { className: "line" }, ...rankAndScore(rank, item.score)));
}

// The page

function showAbout({ version, checkpoint, index, images, speech, text, examples, pictures, limits }) {
  get("words").hidden = !text;
  get("text").maxLength = limits.characters;
  get("counts").textContent = `${plural(images, "picture")} and ${plural(speech, "utterance")} to find`;
  get("version").textContent = `CMD ${version} · ${checkpoint} · ${index} ·`;
  const sayings = examples.map((item) => make("button", { type: "button", textContent: titleOf(item), onclick: () => askItem(item) }));
  const seen = pictures.map((item) => {
    const image = make("img", { src: `${item.picture}?side=192`, alt: "", width: 80, height: 80 });
    return make("button", { type: "button", ariaLabel: `Captions for ${item.name}`, onclick: () => askItem(item) }, image);
  });
  get("examples").replaceChildren(...sayings.map((button) => make("li", {}, button)));
  get("pictures").replaceChildren(...seen.map((button) => make("li", {}, button)));
  get("try").hidden = !examples.length && !pictures.length;
}

function watchFiles() {
  for (const [id, medium] of [["sound", "speech"], ["picture", "image"]]) {
    get(id).addEventListener("change", ({ target }) => {
      if (target.files[0]) askFile(target.files[0], medium);
      target.value = "";
    });
  }
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    get("drop").hidden = false;
  });
  addEventListener("dragleave", ({ relatedTarget }) => { get("drop").hidden ||= !relatedTarget; });
  addEventListener("drop", (event) => takeFile(event, event.dataTransfer));
  addEventListener("paste", (event) => takeFile(event, event.clipboardData));
}

function watchWords() {
  get("words").addEventListener("submit", (event) => {
    event.preventDefault();
    const words = get("text").value.trim();
    if (words) askWords(words);
  });
}

function takeFile(event, { files }) {
  get("drop").hidden = true;
  if (!files.length) return;
  event.preventDefault();
  askFile(files[0]);
}

function watchKeys() {
  addEventListener("keydown", ({ key, target, repeat, ctrlKey, metaKey, altKey }) => {
    if (repeat || ctrlKey || metaKey || altKey || get("look").open || target.closest?.("input:not([type=file]), textarea, select")) return;
    if (key.toLowerCase() === "r") showAndToggle();
    if (key === "Escape" && recording) cancelRecording();
  });
}

function showAndToggle() {
  get("record").scrollIntoView({ block: "center", behavior: still.matches ? "auto" : "smooth" });
  get("record").focus({ preventScroll: true });
  toggleRecording();
}

function watchLook() {
  get("close").onclick = () => get("look").close();
  get("look").addEventListener("close", endLook);
  get("look").addEventListener("click", ({ target }) => { if (target === get("look")) target.close(); });
  get("part").addEventListener("input", ({ target }) => chooseByHand(Number(target.value)));
  get("overlay").addEventListener("change", () => { if (looking) choose(looking.chosen); });
}

async function start() {
  get("record").onclick = toggleRecording;
  get("again").onclick = showAndToggle;
  player.addEventListener("ended", stopPlaying);
  watchFiles();
  watchWords();
  watchKeys();
  watchLook();
  if (!navigator.mediaDevices || !window.AudioWorklet) {
    get("record").disabled = get("again").hidden = get("hint").hidden = true;
    get("status").textContent = "Browsers open the microphone only over https or on localhost. Choose a sound instead.";
  }
  try {
    about = await call("/api/about", new AbortController().signal);
    showAbout(about);
  } catch (error) {
    complain(error);
  }
}

start();
