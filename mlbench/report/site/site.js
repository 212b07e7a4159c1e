"use strict";
const say = (text) => { document.getElementById("status").textContent = text; };

function valueOf(row, column) {
  const cell = row.cells[column];
  const given = cell.dataset.value;
  return given === undefined ? cell.textContent.trim().toLowerCase() : given === "" ? NaN : Number(given);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

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
    const rows = Array.from(body.rows, (row) => [row, valueOf(row, head.cellIndex)]);
    rows.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : sign * compare(a[1], b[1])));
    body.append(...rows.map(([row]) => row));
  }
  say(`Sorted by ${button.textContent.trim()}, ${direction}.`);
}

function filter(tools) {
  const table = document.getElementById(tools.dataset.table);
  table.classList.toggle("brief", !tools.querySelector("[type=checkbox]").checked);
  const words = tools.querySelector("[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = Array.from(tools.querySelectorAll("select"), (select) => [select.name, select.value]);
  const rows = Array.from(table.tBodies).flatMap((body) => Array.from(body.rows));
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const kept = words.every((word) => text.includes(word))
      && wanted.every(([name, value]) => value === "" || row.dataset[name] === value);
    row.hidden = !kept;
    shown += kept;
  }
  tools.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
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
for (const time of document.querySelectorAll("time")) {
  const days = Math.floor((Date.now() - Date.parse(time.dateTime)) / 864e5);
  if (days >= 0) time.textContent += ` (${days === 0 ? "today" : days === 1 ? "1 day ago" : `${days} days ago`})`;
}
