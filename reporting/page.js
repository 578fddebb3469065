"use strict";
// What the page needs a script for: filtering and sorting what page.html lists, cells and links that open clips, and
// playing one clip at a time. Without it the page shows all the same.

(() => {
  const one = (selector) => document.querySelector(selector);
  const root = document.documentElement;
  root.classList.add("live");

  // ---------------------------------------------------------------------------------------------------- clips

  const PAGE = 24; // clips at a time
  const list = one(".cards");
  const status = one("#clips [role=status]");
  const heading = one("#clips h2");
  const chip = one(".chip");
  const form = one(".filters");
  const clips = [...list.children].map((card, at) => {
    const [given, predicted, fold, group, label, sure] = card.dataset.keys.split(" ").map(Number);
    const text = card.textContent.toLowerCase();
    return { at, card, given, predicted, fold, group, label, sure, text, kinds: card.dataset.kinds.split("|"), audio: card.querySelector("audio") };
  });
  const name = (clip) => clip.card.querySelector("code").textContent;
  const ORDERS = {
    label: (a, b) => a.label - b.label,
    sure: (a, b) => b.sure - a.sure,
    name: (a, b) => (name(a) < name(b) ? -1 : 1),
  };
  const count = (n) => n.toLocaleString("en");
  let only = null; // what a link asked for, beside the fields: {pair, group, only, text}
  let cell = null; // the cell of the matrix that was chosen
  let found = [];
  let page = 0;

  /** Whether a clip is what a link asked for. */
  function asked(clip) {
    const { pair, group, only: places } = only ?? {};
    if (pair) return clip.given !== clip.predicted && pair.includes(clip.given) && pair.includes(clip.predicted);
    if (places) return places.includes(clip.at);
    return group === undefined || clip.group === group;
  }

  function filter() {
    const { given, predicted, outcome, fold, kind, text, sound, order } = form.elements;
    const words = text.value.trim().toLowerCase();
    const same = (field, value) => field.value === "" || +field.value === value;
    found = clips.filter(
      (clip) =>
        same(given, clip.given) &&
        same(predicted, clip.predicted) &&
        same(fold, clip.fold) &&
        (!outcome.value || (clip.given === clip.predicted) === (outcome.value === "right")) &&
        (!kind.value || clip.kinds.includes(kind.value)) &&
        (!sound.checked || clip.audio) &&
        clip.text.includes(words) &&
        asked(clip),
    );
    if (order.value) found.sort(ORDERS[order.value]);
    const total = `${count(found.length)} of ${count(clips.length)} listed clips.`;
    status.textContent = cell ? `${total} The cell has ${count(cell.of)}.` : total;
    chip.hidden = !only;
    chip.textContent = only ? `${only.text} ×` : "";
    one("#all").hidden = found.length === clips.length;
    turn(0);
  }

  function turn(to) {
    page = to;
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    list.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((clip) => clip.card));
    one(".pages").hidden = !last;
    one(".pages span").textContent = `Page ${page + 1} of ${last + 1}`;
    one("#before").disabled = !page;
    one("#after").disabled = page === last;
  }

  function goToClips() {
    if (location.hash !== "#clips") location.hash = "clips"; // so that the browser's Back leads back
    else heading.scrollIntoView();
    heading.focus({ preventScroll: true });
  }

  /** Show the clips that a link or a cell asks for, and nothing else narrows. */
  function show(what) {
    form.reset();
    for (const field of ["given", "predicted"]) if (field in what) form.elements[field].value = what[field];
    only = what.text ? what : null;
    cell = what.of ? what : null;
    filter();
  }

  form.addEventListener("input", () => {
    cell = null;
    filter();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  chip.addEventListener("click", () => {
    only = null;
    filter();
  });
  one("#all").addEventListener("click", () => show({}));
  for (const [id, by] of [["#before", -1], ["#after", 1]]) {
    one(id).addEventListener("click", () => {
      turn(page + by);
      goToClips();
    });
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-show]");
    if (!link) return;
    show(JSON.parse(link.dataset.show));
    goToClips();
  });

  // ---------------------------------------------------------------------------------------------------- sound

  /** The sound `by` places from another, if there is one. */
  function beside(audio, by) {
    const sounds = [...list.querySelectorAll("audio")];
    return sounds[sounds.indexOf(audio) + by];
  }
  list.addEventListener("click", (event) => {
    const audio = event.target.closest("img")?.nextElementSibling;
    if (audio) audio.paused ? audio.play() : audio.pause();
  });
  list.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || event.target.tagName !== "AUDIO") return;
    beside(event.target, by)?.focus();
    event.preventDefault();
  });
  const heard = (kind, then) => list.addEventListener(kind, (event) => then(event.target), true);
  heard("play", (audio) => clips.forEach((clip) => clip.audio && clip.audio !== audio && clip.audio.pause()));
  heard("ended", (audio) => form.elements.onward.checked && beside(audio, 1)?.play());
  heard("error", () => {
    status.textContent = "This browser cannot play the sound. Safari plays Ogg Opus from version 18.4 on.";
  });

  // --------------------------------------------------------------------------------------------- matrix, tables

  const rows = [...document.querySelectorAll(".matrix tbody tr")].map((row) => [...row.querySelectorAll("td")]);
  let place = [0, 0];
  if (rows.length) rows[0][0].tabIndex = 0;
  function go(row, column) {
    const within = (index) => Math.max(0, Math.min(rows.length - 1, index));
    rows[place[0]][place[1]].tabIndex = -1;
    place = [within(row), within(column)];
    const at = rows[place[0]][place[1]];
    at.tabIndex = 0;
    at.focus();
  }
  one(".matrix").addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (step) go(place[0] + step[0], place[1] + step[1]);
    else if (event.key === "Enter") event.target.click();
    else return;
    event.preventDefault();
  });
  one(".matrix").addEventListener("click", (event) => {
    const at = event.target.closest("td");
    if (at) go(at.parentNode.sectionRowIndex, at.cellIndex - 1);
  });

  for (const table of document.querySelectorAll(".sortable")) {
    const body = table.tBodies[0];
    for (const head of table.tHead.querySelectorAll("th")) {
      const button = document.createElement("button");
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[head.cellIndex].dataset.key;
        const order = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en") : a - b);
        body.append(...[...body.rows].sort((a, b) => (up ? 1 : -1) * order(key(a), key(b))));
      });
    }
  }

  one("#theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  filter();
})();
