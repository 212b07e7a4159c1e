"use strict";
const say = (text) => { document.getElementById("status").textContent = text; };
const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);

function valueOf(row, column) {
  const cell = row.cells[column];
  const given = cell.dataset.value;
  return given === undefined ? cell.textContent.trim().toLowerCase() : given === "" ? NaN : Number(given);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

// Rows that are ranked together are a body of their own: they are sorted among themselves, below their title.
const rowsOf = (body) => Array.from(body.rows).filter((row) => !row.classList.contains("set"));

function sort(button) {
  const head = button.closest("th");
  const table = head.closest("table");
  const first = head.dataset.first || "ascending";
  const second = first === "ascending" ? "descending" : "ascending";
  const direction = head.getAttribute("aria-sort") === first ? second : first;
  for (const other of head.parentNode.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const missing = ([, value]) => Number.isNaN(value);
  for (const body of table.tBodies) {
    const rows = rowsOf(body).map((row) => [row, valueOf(row, head.cellIndex)]);
    rows.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : sign * compare(a[1], b[1])));
    body.append(...rows.map(([row]) => row));
  }
  say(`Sorted by ${button.textContent.trim()}, ${direction}.`);
}

function filter(tools) {
  const table = document.getElementById(tools.dataset.table);
  const all = tools.querySelector("[type=checkbox]");
  if (all) table.classList.toggle("brief", !all.checked);
  const sought = words(tools.querySelector("[type=search]").value);
  const wanted = Array.from(tools.querySelectorAll("select"), (select) => [`data-${select.name}`, select.value]);
  let shown = 0, count = 0;
  for (const body of table.tBodies) {
    let left = 0;
    for (const row of rowsOf(body)) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(sought.every((word) => text.includes(word))
        && wanted.every(([name, value]) => value === "" || row.getAttribute(name) === value));
      left += !row.hidden;
      count += 1;
    }
    for (const title of body.querySelectorAll(".set")) title.hidden = left === 0;
    shown += left;
  }
  tools.querySelector("output").textContent = `${shown} of ${count} rows`;
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    say("LaTeX copied.");
    button.textContent = "Copied";
  } catch {
    source.closest("details").open = true;
    getSelection().selectAllChildren(source);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy with Ctrl+C";
    say(button.textContent);
  }
  setTimeout(() => { button.textContent = "Copy LaTeX"; }, 2500);
}

function find(tools, input) {
  const entries = Array.from(document.querySelectorAll("#entries li"), (item) => [item, item.textContent.toLowerCase()]);
  const show = () => {
    const sought = words(input.value);
    let shown = 0;
    for (const [item, text] of entries) {
      item.hidden = !sought.every((word) => text.includes(word)) || (sought.length === 0 && item.dataset.kind === "run");
      shown += !item.hidden;
    }
    tools.querySelector("output").textContent = `${shown} of ${entries.length} pages`;
  };
  input.value = decodeURIComponent(location.hash.slice(1));
  input.addEventListener("input", show);
  addEventListener("hashchange", () => { input.value = decodeURIComponent(location.hash.slice(1)); show(); });
  tools.hidden = false;
  show();
  input.focus();
}

function since(tools) {
  const input = document.getElementById("since-date");
  const show = () => {
    let shown = 0;
    for (const day of document.querySelectorAll(".day")) {
      day.hidden = input.value !== "" && day.dataset.date < input.value;
      shown += !day.hidden;
    }
    tools.querySelector("output").textContent = `${shown} days with runs`;
  };
  input.addEventListener("input", show);
  tools.hidden = false;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.closest("th")) sort(button);
  else if (button?.dataset.copy) copy(button);
});
for (const tools of document.querySelectorAll(".tools[data-table]")) {
  tools.hidden = false;
  document.getElementById(tools.dataset.table).classList.add("brief");
  for (const kind of ["input", "change"]) tools.addEventListener(kind, () => filter(tools));
}
function lead(box) {
  box.hidden = false;
  box.addEventListener("keydown", (event) => {
    const sought = box.value.trim();
    if (event.key === "Enter" && sought) location.href = `${box.dataset.page}#${encodeURIComponent(sought)}`;
  });
}

document.querySelectorAll(".find").forEach(lead);
document.querySelectorAll("#search").forEach((tools) => find(tools, document.getElementById("words")));
document.querySelectorAll("#since-tools").forEach(since);
for (const time of document.querySelectorAll("time")) {
  const days = Math.floor((Date.now() - Date.parse(time.dateTime)) / 864e5);
  if (days >= 0) time.textContent += ` (${days === 0 ? "today" : days === 1 ? "1 day ago" : `${days} days ago`})`;
}
