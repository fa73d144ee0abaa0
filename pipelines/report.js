"use strict";
const { labels, sequences } = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const said = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

for (const element of all("[data-needs-script]")) element.hidden = false;

// Sorting: the first click puts the largest value first, or the first name; rows without a value stay last.
const table = document.getElementById("scores");
const heads = all("thead th[data-sort]", table);
heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  if (head.dataset.name) button.setAttribute("aria-label", `${head.dataset.name}: ${button.textContent}, sort`);
  head.append(button);
  button.addEventListener("click", () => {
    const first = column ? "descending" : "ascending";
    const other = column ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    sortRows(column, order === "ascending" ? 1 : -1);
  });
});

function sortRows(column, sign) {
  const body = table.querySelector("tbody.sorted");
  const key = (row) => (column ? row.cells[column].dataset.value : row.cells[0].textContent);
  const rows = all("tr", body).sort((a, b) => {
    const [left, right] = [key(a), key(b)];
    if (!column) return sign * left.localeCompare(right, undefined, { numeric: true });
    if (left === "" || right === "") return (left === "") - (right === "");
    return sign * (left - right);
  });
  body.append(...rows);
}

const more = document.getElementById("all-measures");
function showMore(on) {
  table.classList.toggle("main-only", !on);
  more.setAttribute("aria-pressed", on);
  more.textContent = on ? "Show the main measures" : "Show all measures";
}
more.hidden = !table.querySelector("th.more");
more.addEventListener("click", () => showMore(table.classList.contains("main-only")));
showMore(false);

// Choosing a sequence
const chooser = document.getElementById("sequence");
function choose(number) {
  chooser.value = number;
  for (const each of all(".frames")) each.hidden = Number(each.dataset.number) !== number;
}
const step = (by) => choose((Number(chooser.value) + by + sequences.length) % sequences.length);
chooser.addEventListener("change", () => choose(Number(chooser.value)));
document.getElementById("previous").addEventListener("click", () => step(-1));
document.getElementById("next").addEventListener("click", () => step(1));
for (const link of all("[data-choose]")) link.addEventListener("click", () => choose(Number(link.dataset.choose)));
choose(0);

// Reading values out of a chart, by pointer or arrow keys
for (const plot of all(".plot[data-sequence]")) {
  const { frames, [plot.dataset.measure]: values } = sequences[plot.dataset.sequence];
  const readout = plot.parentElement.querySelector(".readout");
  const cursor = document.createElement("div");
  cursor.className = "cursor";
  cursor.hidden = true;
  plot.append(cursor);
  let place = 0;
  const show = (wanted) => {
    place = Math.max(0, Math.min(frames.length - 1, wanted));
    cursor.style.left = `${frames.length > 1 ? (100 * place) / (frames.length - 1) : 50}%`;
    cursor.hidden = false;
    readout.textContent = `frame ${frames[place]}: ${labels.map((label, i) => `${label} ${said(values[i][place])}`).join(", ")}`;
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    show(Math.round(((event.clientX - box.left) / box.width) * (frames.length - 1)));
  });
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) {
      event.preventDefault();
      show(cursor.hidden ? place : place + by);
    }
  });
}

// All values as a table, made when it is asked for
for (const details of all("details[data-values]")) {
  details.addEventListener("toggle", () => {
    if (details.querySelector("table")) return;
    const sequence = sequences[details.dataset.values];
    const made = document.createElement("table");
    const line = (cells, tag) => {
      const row = made.insertRow();
      cells.forEach((text, i) => {
        const cell = document.createElement(i && tag === "td" ? "td" : "th");
        cell.scope = tag === "th" ? "col" : "row";
        cell.textContent = text;
        row.append(cell);
      });
    };
    line(["frame", ...["J", "F"].flatMap((key) => labels.map((label) => `${key}, ${label}`))], "th");
    sequence.frames.forEach((frame, place) =>
      line([frame, ...["J", "F"].flatMap((key) => sequence[key].map((values) => said(values[place])))], "td"));
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.append(made);
    details.append(scroll);
  });
}
