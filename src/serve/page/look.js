"use strict";

// Where it looks

const PARTS = 8;
const SHADE = 0.78;

async function openLook(item) {
  const [query, stop] = [asked, new AbortController()];
  const mine = (looking = { stop, image: new Image(), grid: [1, 1], frames: [], chosen: 0 });
  stopPlaying();
  resetLook(item);
  get("look").showModal();
  mine.image.src = `${item.picture}?side=512`;
  const path = query.id === undefined ? `/api/attention/${item.id}` : `/api/items/${query.id}/attention/${item.id}`;
  const options = { body: query.body, alert: get("look-alert") };
  try {
    const [answer] = await Promise.all([call(`${path}?parts=${PARTS}`, stop.signal, options), mine.image.decode().then(() => paint(mine))]);
    if (looking === mine) showLook(mine, answer);
  } catch (error) {
    if (looking === mine) complain(error, get("look-alert"));
  }
}

function resetLook(item) {
  get("look-title").replaceChildren("Where it looks", make("small", { textContent: `${titleOf(asked)} in ${item.name}` }));
  get("large").ariaLabel = `Picture ${item.name}`;
  get("large").getContext("2d").clearRect(0, 0, get("large").width, get("large").height);
  get("look-alert").textContent = "";
  get("parts").replaceChildren();
  Object.assign(get("part"), { max: 0, value: 0 });
  get("part-text").textContent = "Whole utterance";
  get("entropy").textContent = "Looking";
  makePlay(get("look-play"), asked.url, titleOf(asked), followLook);
}

function showLook(mine, { grid, weights, entropy, parts }) {
  const nameOf = (part, place) => `${part.word ? quote(part.word) : `Part ${place + 1}`}, ${spanOf(part)}`;
  const framed = parts.map((part, place) => ({ ...part, name: nameOf(part, place), entropy: entropyOf(part.weights) }));
  mine.grid = grid;
  mine.frames = [{ name: "Whole utterance", weights, entropy }, ...framed];
  get("part").max = parts.length;
  get("parts").replaceChildren(...mine.frames.map((frame, place) => make("li", {}, partButton(mine, frame, place))));
  choose(0);
}

function partButton(mine, frame, place) {
  const canvas = make("canvas", { width: 144, height: 144, ariaHidden: "true" });
  paint(mine, frame.weights, canvas);
  const label = place ? frame.word || `${frame.from.toFixed(2)}–${frame.to.toFixed(2)} s` : "Whole";
  return make("button", { type: "button", ariaLabel: frame.name, onclick: () => chooseByHand(place) }, canvas, label);
}

function entropyOf(weights) {
  const sum = weights.reduce((all, weight) => all + weight, 0) || 1;
  const shares = weights.map((weight) => weight / sum).filter(Boolean);
  return -shares.reduce((all, share) => all + share * Math.log(share), 0) / Math.log(weights.length);
}

/** Black where nobody looks, clear where most do. */
function shadeOf(weights, [rows, columns]) {
  const most = Math.max(...weights, Number.MIN_VALUE);
  const cells = new ImageData(columns, rows);
  weights.forEach((weight, place) => { cells.data[4 * place + 3] = Math.round(255 * SHADE * (1 - weight / most)); });
  const canvas = make("canvas", { width: columns, height: rows });
  canvas.getContext("2d").putImageData(cells, 0, 0);
  return canvas;
}

function paint({ image, grid }, weights = null, canvas = get("large")) {
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (weights) pen.drawImage(shadeOf(weights, grid), 0, 0, canvas.width, canvas.height);
}

const paintLarge = (weights) => paint(looking, get("overlay").checked ? weights : null);

function choose(place) {
  const frame = looking?.frames[place];
  if (!frame) return;
  looking.chosen = place;
  get("part").value = place;
  get("part").ariaValueText = get("part-text").textContent = frame.name;
  get("entropy").textContent = `Entropy ${frame.entropy.toFixed(2)}: 1 looks everywhere alike, 0 at one patch.`;
  const buttons = [...get("parts").querySelectorAll("button")];
  buttons.forEach((button, at) => { button.ariaPressed = String(at === place); });
  buttons[place].scrollIntoView({ block: "nearest", inline: "nearest" });
  paintLarge(frame.weights);
}

function chooseByHand(place) {
  stopPlaying();
  choose(place);
}

/** Shows the part that is heard, fading from one to the next. */
function followLook(time) {
  const parts = looking?.frames.slice(1) ?? [];
  if (time === null || !parts.length) return choose(0);
  const heard = parts.findLastIndex(({ from }) => from <= time);
  if (heard + 1 !== looking.chosen) choose(heard + 1);
  // Keywords overlap; one is shown at a time.
  if (heard >= 0 && !still.matches && !parts[heard].word) paintLarge(blend(parts, time));
  return undefined;
}

function blend(parts, time) {
  const middle = ({ from, to }) => (from + to) / 2;
  const before = Math.max(0, parts.findLastIndex((part) => middle(part) <= time));
  const [one, other] = [parts[before], parts[before + 1] ?? parts[before]];
  const share = Math.max(0, Math.min(1, (time - middle(one)) / (middle(other) - middle(one)) || 0));
  return one.weights.map((weight, place) => weight + share * (other.weights[place] - weight));
}

function endLook() {
  looking?.stop.abort();
  looking = null;
  stopPlaying();
}
