// Draws an answer: a picture and an id map come in, everything that moves with the mouse stays in the browser.
// `element`, `props`, `trigger` and `watch` are given by Gradio's HTML component.
const find = (name) => element.querySelector(".ov-" + name);
const root = find("viewer"), canvas = find("canvas"), stage = find("stage"), tip = find("tip");
const opacity = find("opacity"), outlines = find("outlines"), labels = find("labels"), split = find("split");
const pen = canvas.getContext("2d", { willReadFrequently: true });
const LEGEND_ROWS = 60;
let photo = null, heat = null, ids = null, edges = null, answer = null, hovered = 0, chosen = 0, turn = 0, frame = 0;

const make = (tag, name, text) => {
  const node = document.createElement(tag);
  node.className = name;
  if (text !== undefined) node.textContent = text; // never markup: labels are strangers' words
  return node;
};
const percent = (share) => (share < 0.0995 ? (100 * share).toFixed(1) : Math.round(100 * share)) + "%";
const channels = (color) => [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));

async function pixels(address, width, height) {
  if (!address) return null;
  const image = new Image();
  image.src = address;
  await image.decode();
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [width, height];
  const brush = sheet.getContext("2d", { willReadFrequently: true });
  brush.drawImage(image, 0, 0, width, height);
  return brush.getImageData(0, 0, width, height);
}

// The photograph stays while words and sliders change.
let kept = { address: null };
async function photograph(address, width, height) {
  if (kept.address !== address || kept.width !== width || kept.height !== height)
    kept = { address, width, height, data: await pixels(address, width, height) };
  return kept.data;
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Int32Array(await new Response(stream).arrayBuffer());
}

async function update() {
  const mine = ++turn, next = props.value;
  if (!next) return;
  const { width, height } = next.ids;
  const [map, background, layer] = await Promise.all(
    [unpack(next.ids), photograph(next.picture, width, height), pixels(props.layer, width, height)]);
  if (mine !== turn) return; // a later answer has overtaken this one
  [photo, heat, ids, edges, answer] = [background, layer, map, null, next];
  [canvas.width, canvas.height] = [width, height];
  if (!answer.segments.some((segment) => segment.id === chosen)) chosen = 0;
  if (answer.chosen !== undefined) chosen = answer.chosen;
  hovered = 0;
  find("empty").hidden = true;
  find("remark").textContent = answer.note || "";
  drawLegend();
  draw();
}

function lookup() {
  const table = new Map();
  for (const segment of answer.segments) table.set(segment.id, channels(segment.color));
  return table;
}

function draw() {
  if (!answer) return;
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => {
    const image = new ImageData(canvas.width, canvas.height);
    if (heat) image.data.set(heat.data);
    else paint(image.data);
    if (outlines.checked) outline(image.data);
    uncover(image.data);
    pen.putImageData(image, 0, 0);
    placeChips();
    root.dataset.drawn = Number(root.dataset.drawn) + 1;
    root.dataset.segments = answer.segments.length;
    root.dataset.chosen = chosen;
  });
}

function paint(out) {
  const colors = lookup(), base = photo.data, strength = opacity.value / 100, focus = hovered || chosen;
  for (let i = 0, j = 0; i < ids.length; i++, j += 4) {
    const color = colors.get(ids[i]);
    let share = strength * (color ? 1 : 0.35);
    if (hovered && ids[i] !== focus) share *= 0.35;
    for (let c = 0; c < 3; c++) out[j + c] = base[j + c] * (1 - share) + (color ? color[c] : 0) * share;
    out[j + 3] = 255;
  }
}

// Where segments meet: x, y and the ids of the pixel, of its right and of its lower neighbour.
function findEdges() {
  const width = canvas.width, height = canvas.height, found = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x, right = x + 1 < width ? ids[i + 1] : ids[i], below = y + 1 < height ? ids[i + width] : ids[i];
      if (ids[i] !== right || ids[i] !== below) found.push([x, y, ids[i], right, below]);
    }
  }
  return found;
}

function outline(out) {
  const width = canvas.width, height = canvas.height, focus = hovered || chosen;
  edges = edges || findEdges();
  const mark = (x, y, value) => {
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    const j = 4 * (y * width + x);
    out[j] = out[j + 1] = out[j + 2] = value;
  };
  const strong = ([, , ...sides]) => focus && sides.includes(focus);
  for (const edge of edges) {
    const reach = strong(edge) ? 2 : 1;
    for (let dy = -reach; dy <= reach; dy++) for (let dx = -reach; dx <= reach; dx++) mark(edge[0] + dx, edge[1] + dy, 30);
  }
  for (const edge of edges) {
    const [x, y] = edge;
    mark(x, y, 255);
    if (strong(edge)) [[1, 0], [-1, 0], [0, 1], [0, -1]].forEach(([dx, dy]) => mark(x + dx, y + dy, 255));
  }
}

function uncover(out) {
  const border = Math.round((split.value / 100) * canvas.width), divider = find("divider");
  divider.hidden = border === 0;
  divider.style.left = split.value + "%";
  for (let y = 0; border && y < canvas.height; y++) {
    const start = 4 * y * canvas.width;
    out.set(photo.data.subarray(start, start + 4 * border), start);
  }
}

// A chip lies around its segment's innermost point, if the segment has room for most of it and no larger one is there.
function placeChips() {
  const box = find("chips");
  box.replaceChildren();
  if (!labels.checked || heat) return;
  const scale = canvas.clientWidth / answer.width, taken = [];
  const full = { right: canvas.clientWidth, bottom: canvas.clientHeight };
  for (const segment of answer.segments) {
    const chip = make("span", "ov-chip", segment.label);
    chip.style.background = segment.color;
    chip.style.color = segment.ink;
    box.append(chip);
    const width = chip.offsetWidth, height = chip.offsetHeight, area = segment.share * full.right * full.bottom;
    const left = Math.min(Math.max(segment.x * scale - width / 2, 2), full.right - width - 2);
    const top = Math.min(Math.max(segment.y * scale - height / 2, 2), full.bottom - height - 2);
    const place = { left, top, right: left + width, bottom: top + height };
    const clash = taken.some((other) => place.left < other.right && other.left < place.right
      && place.top < other.bottom && other.top < place.bottom);
    const roomy = segment.room * scale >= height / 3 && area >= (width * height) / 2;
    if (clash || !roomy || segment.x * scale < full.right * (split.value / 100)) {
      chip.remove();
      continue;
    }
    chip.style.left = left + "px";
    chip.style.top = top + "px";
    taken.push(place);
  }
}

function drawLegend() {
  const list = find("legend");
  list.replaceChildren();
  for (const segment of answer.segments.slice(0, LEGEND_ROWS)) {
    const row = make("button", "ov-row");
    row.type = "button";
    row.dataset.id = segment.id;
    row.setAttribute("aria-pressed", String(segment.id === chosen));
    const swatch = make("span", "ov-swatch");
    swatch.style.background = segment.color;
    row.append(swatch, make("bdi", "ov-name", segment.label), make("span", "ov-figure", percent(segment.share)),
      make("span", "ov-figure ov-score", segment.score.toFixed(2)));
    row.title = `${segment.kind}, ${segment.seen ? "seen" : "not seen"} in training`;
    row.addEventListener("mouseenter", () => hover(segment.id));
    row.addEventListener("mouseleave", () => hover(0));
    row.addEventListener("focus", () => hover(segment.id));
    row.addEventListener("blur", () => hover(0));
    row.addEventListener("click", () => choose(segment.id, segment.x, segment.y));
    list.append(row);
  }
  if (answer.segments.length > LEGEND_ROWS) list.append(make("span", "ov-more", `and ${answer.segments.length - LEGEND_ROWS} more`));
  if (answer.unlabelled > 0.0005) list.append(make("span", "ov-more", `${percent(answer.unlabelled)} of the picture has no label`));
}

function hover(id) {
  if (id === hovered) return;
  hovered = id;
  draw();
}

function choose(id, x, y) {
  chosen = id;
  for (const row of element.querySelectorAll(".ov-row")) row.setAttribute("aria-pressed", String(Number(row.dataset.id) === id));
  draw();
  trigger("point", { x, y });
}

function under(event) {
  const box = canvas.getBoundingClientRect();
  const across = (event.clientX - box.left) / box.width, down = (event.clientY - box.top) / box.height;
  if (!answer || across < 0 || down < 0 || across >= 1 || down >= 1) return null;
  const place = Math.floor(down * canvas.height) * canvas.width + Math.floor(across * canvas.width);
  return { id: ids[place], x: Math.floor(across * answer.width), y: Math.floor(down * answer.height) };
}

// What else might be there, where somebody asked: names and probabilities of a segment.
function bars(segment) {
  const known = (segment && answer.details && answer.details[segment.id]) || [];
  return known.map(([name, share]) => {
    const row = make("span", "ov-tip-row"), bar = make("i", "ov-tip-bar");
    bar.style.width = `${100 * share}%`;
    row.append(bar, make("bdi", "", name), ` ${share.toFixed(2)}`);
    return row;
  });
}

stage.addEventListener("mousemove", (event) => {
  const point = under(event), segment = point && answer.segments.find((one) => one.id === point.id);
  hover(segment ? segment.id : 0);
  tip.hidden = !point;
  if (!point) return;
  tip.replaceChildren(segment
    ? `${segment.label} \u00b7 ${segment.score.toFixed(2)} \u00b7 ${percent(segment.share)}` : "no label", ...bars(segment));
  const box = stage.getBoundingClientRect();
  tip.style.left = Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth - 4) + "px";
  tip.style.top = Math.max(event.clientY - box.top - 34, 2) + "px";
});
stage.addEventListener("mouseleave", () => { tip.hidden = true; hover(0); });
canvas.addEventListener("click", (event) => { const point = under(event); if (point) choose(point.id, point.x, point.y); });
for (const control of [opacity, outlines, labels, split]) control.addEventListener("input", draw);
for (const control of [opacity, outlines, labels]) control.addEventListener("change", () =>
  trigger("restyle", { opacity: opacity.value / 100, outlines: outlines.checked, labels: labels.checked }));
function restyle() {
  if (!props.look) return;
  opacity.value = 100 * props.look.opacity;
  [outlines.checked, labels.checked] = [props.look.outlines, props.look.labels];
  draw();
}
find("full").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()));
new ResizeObserver(() => answer && placeChips()).observe(canvas);
watch(["value", "layer"], update);
watch("look", restyle);
update();
