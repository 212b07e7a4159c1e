"use strict";
const tools = document.querySelector(".tools");
const list = document.getElementById("images");
const cards = Array.from(list.children);
const chosen = (name) => tools.elements[name]?.value ?? "";
const has = (element, mark) => mark === "" || element.dataset.marks.split(" ").includes(mark);

function fits(row) {
  return has(row, chosen("mark")) && (chosen("class") === "" || row.dataset.class === chosen("class"));
}

function rowsOf(card) { return Array.from(card.querySelectorAll("tbody tr")); }

function colour(level) {
  const heat = (level - 128) / 127;
  const red = Math.min(1, 1 + heat), blue = Math.min(1, 1 - heat);
  return [red, Math.min(red, blue), blue].map((value) => Math.trunc(255 * Math.max(0, value)));
}

function heat(canvas, [height, width, text]) {
  const bytes = atob(text);
  canvas.height = height;
  canvas.width = width;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(width, height);
  for (let i = 0; i < bytes.length; i += 1) image.data.set([...colour(bytes.charCodeAt(i)), 255], 4 * i);
  pen.putImageData(image, 0, 0);
}

function draw(card) {
  const picture = card.querySelector(".picture");
  for (const old of picture.querySelectorAll("canvas, .box")) old.remove();
  const rows = rowsOf(card);
  const row = rows.find((each) => each === card.pressed) ?? rows.find(fits) ?? rows[0];
  const map = row && chosen("map") ? JSON.parse(row.dataset.maps)[chosen("map")] : undefined;
  for (const each of rows) each.querySelector("button")?.setAttribute("aria-pressed", String(map !== undefined && each === row));
  if (map === undefined) return;
  heat(picture.appendChild(document.createElement("canvas")), map);
  for (const [x, y, width, height] of JSON.parse(row.dataset.boxes)) {
    const box = picture.appendChild(document.createElement("div"));
    box.className = "box";
    Object.assign(box.style, { left: `${100 * x}%`, top: `${100 * y}%`, width: `${100 * width}%`, height: `${100 * height}%` });
  }
}

function update(event) {
  let shown = 0;
  for (const card of cards) {
    card.hidden = !rowsOf(card).some(fits);
    shown += !card.hidden;
    if (event?.target.name !== "map") card.pressed = undefined;
    if (!card.hidden) draw(card);
  }
  const key = chosen("order").replace("-", "");
  const sign = chosen("order").startsWith("-") ? -1 : 1;
  const value = (card) => (card.dataset[key] === "" ? Infinity : sign * Number(card.dataset[key]));
  const order = cards.map((card) => [value(card), card]);
  order.sort(([a], [b]) => (a === b ? 0 : a < b ? -1 : 1));
  list.append(...order.map(([, card]) => card));
  const visible = Array.from(list.children).filter((card) => !card.hidden);
  for (const card of cards) card.tabIndex = card === visible[0] ? 0 : -1;
  document.getElementById("none").hidden = shown > 0;
  tools.querySelector("output").textContent = `${shown} of ${cards.length} images`;
}

list.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const card = button.closest(".card");
  const select = tools.elements.map;
  const again = button.getAttribute("aria-pressed") === "true";
  card.pressed = button.closest("tr");
  if (select.value === "" || again) {
    select.value = again ? "" : select.options[1].value;
    for (const each of cards) if (!each.hidden) draw(each);
  } else draw(card);
});

list.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) {
    const visible = Array.from(list.children).filter((card) => !card.hidden);
    const next = visible[visible.indexOf(event.target.closest(".card")) + step];
    if (!next) return;
    event.preventDefault();
    for (const card of cards) card.tabIndex = card === next ? 0 : -1;
    next.focus();
  } else if (event.key.toLowerCase() === "h" && tools.elements.map) {
    const select = tools.elements.map;
    select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
    for (const card of cards) if (!card.hidden) draw(card);
  }
});

tools.hidden = false;
tools.addEventListener("change", update);
tools.addEventListener("submit", (event) => event.preventDefault());
update();
