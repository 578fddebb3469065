"use strict";
// Draws the page from the JSON block "data" (page.py describes it). Strings of it become text nodes or the values of
// harmless attributes, never markup.

(() => {
  const report = JSON.parse(document.getElementById("data").textContent);
  const { classes } = report.task;
  const clips = report.clips;
  const listed = clips.fname.length;

  // ------------------------------------------------------------------------------------------------- elements

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    for (const child of children.flat(Infinity)) {
      if (child != null && child !== false) node.append(child); // a string becomes a text node
    }
    return node;
  }

  /** An HTML element; a function among the attributes is a listener of the event of that name. */
  const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // -------------------------------------------------------------------------------------------------- numbers

  const known = (x) => x !== null && x !== undefined;
  const count = (n) => n.toLocaleString("en");
  const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
  const PERCENT = "\u00a0%"; // never at the start of a line
  const percent = (x, digits = 1) => (known(x) ? `${(100 * x).toFixed(digits)}${PERCENT}` : "–");
  const decimal = (x, digits = 3) => (known(x) ? x.toFixed(digits) : "–");
  const points = (x) => (known(x) ? `${x > 0 ? "+" : x < 0 ? "−" : ""}${Math.abs(100 * x).toFixed(2)}` : "–");
  const chance = (p) => (p > 0 && p < 0.0005 ? `< 0.1${PERCENT}` : p >= 0.9995 ? `> 99.9${PERCENT}` : percent(p));
  const pValue = (p) => (!known(p) ? "–" : p < 0.0001 ? "< 0.0001" : p.toFixed(p < 0.01 ? 4 : 3));

  /** "93.6–94.8", the ends of a rate's interval; "" where it has none. */
  function interval([, low, high], format = percent) {
    if (!known(low) || !known(high)) return "";
    const ends = [format(low), format(high)].map((end) => end.replace(PERCENT, ""));
    return format === points ? ends.join(" to ") : ends.join("–");
  }
  const rated = (rate, format = percent) => [format(rate[0]), h("small", {}, interval(rate, format))];

  function duration(seconds) {
    if (!known(seconds)) return "–";
    if (seconds < 60) return `${Math.round(seconds)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }

  function range(values) {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      if (!known(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return low <= high ? [low, high] : [0, 1];
  }

  /** Round numbers from `low` to `high`, about `wanted` of them. */
  function ticks(low, high, wanted = 5) {
    const rough = (high - low || 1) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  }

  /** Ends moved outwards to round numbers. */
  function rounded(low, high, wanted = 4) {
    const marks = ticks(low, high, wanted);
    const step = marks.length > 1 ? marks[1] - marks[0] : high - low || 1;
    return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
  }

  /** 1, 2 and 5 times powers of ten between the ends. */
  function logTicks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const factor of [1, 2, 5]) {
        const mark = factor * 10 ** power;
        if (mark >= low * 0.999 && mark <= high * 1.001) found.push(mark);
      }
    }
    return found;
  }

  /** How marks are written: times `factor` (100 for percent), with as many digits as tell them apart. */
  function marked(marks, factor = 1) {
    const steps = marks.slice(1).map((mark, i) => (mark - marks[i]) * factor);
    const digits = Math.max(0, Math.ceil(-Math.log10(Math.min(...steps, 1)) - 1e-6));
    return (mark) => (mark * factor).toFixed(digits).replace("-", "−");
  }

  // --------------------------------------------------------------------------------------------------- charts

  /**
   * Axes to draw on. `x` and `y` are {domain: [low, high], label} and, where wanted, `factor` (100 for percent), `log`,
   * `marks` and how they are `written`. Returns the SVG and the two scales; what is added to it lies above the grid.
   */
  function axes(label, x, y, { width = 340, height = 220 } = {}) {
    const edge = { left: 40, right: 12, top: 20, bottom: 38 };
    function scale({ domain, log }, from, to) {
      const at = log ? Math.log10 : Number;
      const [low, high] = domain.map(at);
      return (value) => from + ((at(value) - low) / (high - low || 1)) * (to - from);
    }
    function labelled({ domain, factor, log, marks, written }, wanted) {
      marks ??= log ? logTicks(...domain) : ticks(...domain, wanted);
      written ??= log ? (mark) => String(+(mark * (factor ?? 1)).toPrecision(3)) : marked(marks, factor);
      return marks.map((mark) => [mark, written(mark)]);
    }
    const px = scale(x, edge.left, width - edge.right);
    const py = scale(y, height - edge.bottom, edge.top);
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
    const floor = height - edge.bottom;
    for (const [mark, text] of labelled(y, 4)) {
      chart.append(
        svg("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: py(mark), y2: py(mark) }),
        svg("text", { x: edge.left - 7, y: py(mark) + 4, "text-anchor": "end" }, text),
      );
    }
    chart.append(svg("line", { class: "axis", x1: edge.left, x2: width - edge.right, y1: floor, y2: floor }));
    for (const [mark, text] of labelled(x, 5)) {
      chart.append(
        svg("line", { class: "axis", x1: px(mark), x2: px(mark), y1: floor, y2: floor + 4 }),
        svg("text", { x: px(mark), y: floor + 16, "text-anchor": "middle" }, text),
      );
    }
    chart.append(
      svg("text", { class: "unit", x: edge.left - 34, y: 10 }, y.label),
      svg("text", { class: "unit", x: width - edge.right, y: height - 5, "text-anchor": "end" }, x.label),
    );
    return { chart, px, py };
  }

  function path(xs, ys, { px, py }, kind) {
    let d = "";
    let pen = "M";
    for (let i = 0; i < xs.length; i++) {
      const [at, up] = known(xs[i]) && known(ys[i]) ? [px(xs[i]), py(ys[i])] : [NaN, NaN];
      const shown = Number.isFinite(at) && Number.isFinite(up); // 0 has no place on a logarithmic axis
      if (shown) d += `${pen}${at.toFixed(1)} ${up.toFixed(1)}`;
      pen = shown ? "L" : "M";
    }
    return svg("path", { class: kind, d });
  }

  /** A dot with its interval, upright at `x`, on a chart's `py` scale; `text` shows under the pointer. */
  function whiskered(x, rate, py, text, kind = "") {
    const [value, low, high] = rate;
    if (!known(value)) return svg("g");
    return svg(
      "g",
      {},
      svg("title", {}, text),
      known(low) && known(high) && svg("line", { class: `whisker ${kind}`, x1: x, x2: x, y1: py(low), y2: py(high) }),
      svg("circle", { class: `dot ${kind}`, cx: x, cy: py(value), r: 3.2 }),
    );
  }

  /**
   * Rates of a table's rows on one scale, for a small chart in each row: {head, row}. `more` are values that the scale
   * must hold too; `zero` draws a guide at 0.
   */
  function strip(rates, { factor = 1, more = [], zero = false, kind = "", width = 210 } = {}) {
    const values = [...rates.flat(), ...more];
    const [low, high] = rounded(...range(zero ? [...values, 0] : values), 4);
    const marks = ticks(low, high, 4);
    const px = (value) => 12 + ((value - low) / (high - low || 1)) * (width - 24);
    const frame = (height, ...children) =>
      svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }, ...children);
    const guides = () =>
      marks.map((mark) => {
        const kind = zero && Math.abs(mark) < 1e-12 ? "axis" : "grid";
        return svg("line", { class: kind, x1: px(mark), x2: px(mark), y1: 0, y2: 22 });
      });
    const written = marked(marks, factor);
    return {
      head: () => frame(16, marks.map((mark) => svg("text", { x: px(mark), y: 12, "text-anchor": "middle" }, written(mark)))),
      /** A dot with its interval; `others` are open circles behind it. */
      row([value, from, to], others = []) {
        const shown = known(value);
        return frame(
          22,
          guides(),
          others.filter(known).map((other) => svg("circle", { class: "fold-dot", cx: px(other), cy: 11, r: 2.6 })),
          shown && known(from) && known(to) && svg("line", { class: `whisker ${kind}`, x1: px(from), x2: px(to), y1: 11, y2: 11 }),
          shown && svg("circle", { class: `dot ${kind}`, cx: px(value), cy: 11, r: 3.6 }),
        );
      },
    };
  }

  // --------------------------------------------------------------------------------------------------- tables

  const number = (...children) => h("td", { class: "number" }, ...children);

  /** `heads` are texts or [text, class]; a wide table scrolls by itself. */
  function table(label, heads, rows, caption = null) {
    const head = heads.map((cell) =>
      cell instanceof Node ? cell : h("th", { scope: "col", class: Array.isArray(cell) ? cell[1] : null }, [cell].flat()[0]),
    );
    return scrolling(label, h("table", {}, caption && h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows)));
  }
  const scrolling = (label, content, kind = "") =>
    h("div", { class: `scroll ${kind}`, role: "region", "aria-label": label, tabindex: 0 }, content);
  const plotted = (text, drawing) => h("th", { scope: "col" }, text, drawing);
  const link = (text, action, label = null) => h("button", { type: "button", class: "link", click: action, "aria-label": label }, text);
  const command = (text) => h("code", { class: "command", tabindex: 0 }, text);

  /** Makes a table's columns sortable; `keys[i](row)` is what column i is sorted by. */
  function sortable(heads, items, toRow) {
    const body = h("tbody");
    const cells = heads.map(([text, kind, key]) => {
      const head = h("th", { scope: "col", class: kind, "aria-sort": "none" });
      head.append(h("button", { type: "button", class: "sort", click: () => sort(head, key) }, text));
      return head;
    });
    function sort(head, key) {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const cell of cells) cell.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en") : (a ?? Infinity) - (b ?? Infinity));
      const sorted = [...items].sort((a, b) => (down ? -1 : 1) * order(key(a), key(b)));
      body.replaceChildren(...sorted.map(toRow));
    }
    body.append(...items.map(toRow));
    return h("table", {}, h("thead", {}, h("tr", {}, cells)), body);
  }

  // ------------------------------------------------------------------------------------------------- sections

  function verdict() {
    const { scores } = report.subject;
    const { task } = report;
    const figures = [
      ["Accuracy", scores.accuracy, percent],
      ["Macro F1", scores.macro_f1, decimal],
      ["Top 3", scores.top3, percent],
      ["Log loss, nats", scores.log_loss, decimal],
      ["Calibration error", scores.ece, percent],
    ];
    const facts = [
      plural(task.clips, "clip"),
      `${count(classes.length)} classes`,
      task.groups === null ? "speakers not known" : plural(task.groups, "speaker"),
      plural(task.folds, "fold"),
      `${count(task.sample_rate)} Hz`,
      `${task.seconds} s a clip`,
    ];
    return [
      h("h1", {}, report.title),
      h("div", { class: "verdict" }, report.verdict.map((sentence) => h("p", {}, sentence))),
      h(
        "dl",
        { class: "figures", "aria-label": "Key figures" },
        figures.map(([name, rate, format]) =>
          h("div", {}, h("dt", {}, name), h("dd", {}, format(rate[0])), h("dd", {}, interval(rate, format) || "no interval")),
        ),
      ),
      h("p", { class: "facts" }, `${report.subject.name}. Ranges are 95 % intervals. ${facts.join(", ")}.`),
    ];
  }

  function runs() {
    const scored = report.runs.filter((run) => run.scores);
    const folds = (run) => run.folds.map((fold) => fold.accuracy[0]);
    const shown = strip(scored.map((run) => run.scores.accuracy), { factor: 100, more: report.runs.flatMap(folds) });
    const rows = report.runs.map((run) => {
      const remark = run.note || run.command;
      const scores = run.scores;
      const row = h(
        "tr",
        { class: remark ? "continues" : null },
        h("th", { scope: "row", class: "name" }, run.name, run.status !== "complete" && [" ", h("span", { class: "tag warn" }, run.status)]),
        h("td", {}, shown.row(scores ? scores.accuracy : [null], folds(run))),
        scores
          ? [
              number(rated(scores.accuracy)),
              number(rated(scores.macro_f1, decimal)),
              number(decimal(scores.log_loss[0])),
              number(percent(scores.top3[0])),
              number(percent(scores.ece[0])),
            ]
          : h("td", { colspan: 5, class: "soft" }, "no scores over all folds"),
        number(duration(run.seconds)),
      );
      const more = h("tr", { class: "continued" }, h("td", { colspan: 8 }, run.note && h("div", { class: "soft" }, run.note), run.command && command(run.command)));
      return remark ? [row, more] : row;
    });
    const numbers = [...new Set(report.runs.flatMap((run) => run.folds.map((fold) => fold.fold)))].sort((a, b) => a - b);
    const cell = (fold) => (fold ? number(rated(fold.accuracy)) : number("–"));
    return [
      h("p", { class: "soft" }, "Each clip is judged by the one network of a run that did not train on it. Dots are a run's accuracy with its interval, open circles its folds."),
      table(
        "Runs",
        ["run", plotted("accuracy, %", shown.head()), ["accuracy", "number"], ["macro F1", "number"], ["log loss", "number"], ["top 3", "number"], ["calibration error", "number"], ["training", "number"]],
        rows,
      ),
      numbers.length > 0 &&
        h(
          "details",
          {},
          h("summary", {}, "Fold by fold"),
          table(
            "Accuracy of each fold",
            ["run", ...numbers.map((fold) => [`fold ${fold}`, "number"])],
            report.runs.map((run) =>
              h("tr", {}, h("th", { scope: "row", class: "name" }, run.name), numbers.map((fold) => cell(run.folds.find((other) => other.fold === fold)))),
            ),
          ),
        ),
    ];
  }

  function curves() {
    const drawn = report.runs.filter((run) => run.history.some((fold) => fold.epoch.length));
    const errors = (fold) => fold.valid_accuracy.map((accuracy) => (known(accuracy) ? 1 - accuracy : null));
    const losses = (fold) => [...fold.train_loss, ...fold.valid_loss];
    /** Marks around the positive values, which a logarithmic axis can show. */
    const span = (values) => {
      const positive = values.filter((value) => value > 0);
      if (!positive.length) return [0.001, 1]; // no error in any epoch: nothing to draw, but an axis
      const [low, high] = range(positive);
      const marks = logTicks(low / 10, high * 10);
      return [marks.findLast((mark) => mark <= low * 1.001), marks.find((mark) => mark >= high * 0.999 && mark > low)];
    };
    const histories = drawn.flatMap((run) => run.history);
    const error = { domain: span(histories.flatMap(errors)), factor: 100, log: true, label: "held-out errors, %" };
    const loss = { domain: span(histories.flatMap(losses)), log: true, label: "loss, nats" };
    const size = { width: 340, height: 190 };
    return [
      h("p", { class: "soft" }, "A line a fold. The scales are logarithmic and the same for all runs."),
      h("p", { class: "soft" }, h("span", { class: "key" }), "held out", h("span", { class: "key second" }), "in training, on augmented clips"),
      h(
        "div",
        { class: "charts" },
        drawn.map((run) => {
          const epochs = [1, Math.max(2, range(run.history.flatMap((fold) => fold.epoch))[1])];
          const x = { domain: epochs, label: "epoch", marks: ticks(...epochs, 5).filter(Number.isInteger) };
          const last = range(run.history.map((fold) => fold.valid_accuracy.at(-1)));
          const words = `${run.name}: held-out errors by epoch, ${plural(run.history.length, "fold")}; accuracy at the end ${interval([0, ...last])} %`;
          const top = axes(words, x, error, size);
          const bottom = axes(`${run.name}: loss by epoch`, x, loss, size);
          for (const fold of run.history) {
            const line = path(fold.epoch, errors(fold), top, "line fold");
            line.append(svg("title", {}, `fold ${fold.fold}: accuracy ${percent(fold.valid_accuracy.at(-1))} at the end`));
            top.chart.append(line);
            bottom.chart.append(path(fold.epoch, fold.train_loss, bottom, "line second fold"), path(fold.epoch, fold.valid_loss, bottom, "line fold"));
          }
          return h("figure", { class: "chart" }, h("figcaption", {}, run.name), top.chart, bottom.chart);
        }),
      ),
    ];
  }

  function comparisons() {
    const shown = strip(report.comparisons.map((pair) => pair.difference), { factor: 100, zero: true });
    return [
      h("p", { class: "soft" }, "The same clips, judged by both. A difference is real as far as its interval leaves out zero."),
      table(
        "Comparisons",
        ["first", "second", plotted("first minus second, points", shown.head()), ["difference", "number"], ["p", "number"], ["only first right", "number"], ["only second right", "number"]],
        report.comparisons.map((pair) =>
          h(
            "tr",
            {},
            h("td", { class: "name" }, pair.a),
            h("td", { class: "name" }, pair.b),
            h("td", {}, shown.row(pair.difference)),
            number(rated(pair.difference, points)),
            number(pValue(pair.p)),
            number(count(pair.only_a)),
            number(count(pair.only_b)),
          ),
        ),
      ),
    ];
  }

  function ensemble() {
    const made = report.ensemble;
    const shown = strip(made.candidates.map((candidate) => candidate.scores.accuracy), { factor: 100 });
    const most = Math.max(...made.members.map((member) => member.weight), 1e-9);
    const bar = (weight) => {
      const inside = h("div");
      inside.style.width = `${(100 * weight) / most}%`;
      return h("div", { class: "weight", "aria-hidden": "true" }, inside);
    };
    return [
      h("p", {}, made.verdict),
      h("p", { class: "soft" }, `${made.method} Temperature ${decimal(made.temperature, 2)}.`),
      command(made.command),
      table(
        "Ways to combine",
        ["candidate", plotted("accuracy, %", shown.head()), ["accuracy", "number"], ["macro F1", "number"], ["log loss", "number"], ["top 3", "number"], ["calibration error", "number"]],
        made.candidates.map(({ name, scores }) =>
          h(
            "tr",
            {},
            h("th", { scope: "row", class: "name" }, name),
            h("td", {}, shown.row(scores.accuracy)),
            number(rated(scores.accuracy)),
            number(rated(scores.macro_f1, decimal)),
            number(decimal(scores.log_loss[0])),
            number(percent(scores.top3[0])),
            number(rated(scores.ece)),
          ),
        ),
      ),
      h("h3", {}, "What it is made of"),
      table(
        "Members",
        ["run", "view", "", ["weight", "number"], ["brings, points", "number"]],
        made.members.map((member) =>
          h(
            "tr",
            {},
            h("th", { scope: "row", class: "name" }, member.run),
            h("td", {}, member.view),
            h("td", {}, bar(member.weight)),
            number(decimal(member.weight)),
            number(points(member.brings)),
          ),
        ),
      ),
      h("p", { class: "soft" }, "What a member brings is the accuracy that goes where it is left out."),
    ];
  }

  // ------------------------------------------------------------------------------------------ confusion matrix

  const MOST_CLASSES = 60; // of the matrix: more cells than that nobody reads

  function confusion() {
    const { counts, order } = report.confusion;
    const totals = counts.map((row) => row.reduce((a, b) => a + b, 0));
    const errors = counts.map((row, i) => totals[i] - row[i] + counts.reduce((sum, other, j) => sum + (j === i ? 0 : other[i]), 0));
    const kept = new Set(classes.map((_, i) => i).sort((a, b) => errors[b] - errors[a]).slice(0, MOST_CLASSES));
    const shown = order.filter((i) => kept.has(i));
    const share = (i, j) => counts[i][j] / (totals[i] || 1);
    let most = 1e-9;
    for (const i of shown) for (const j of shown) if (i !== j) most = Math.max(most, share(i, j));

    const detail = h("p", { class: "matrix-detail soft" }, "Choose a cell for its clips.");
    const cells = shown.map((i) =>
      shown.map((j) => {
        const n = counts[i][j];
        const words = `given ${classes[i]}, predicted ${classes[j]}: ${count(n)} of ${count(totals[i])} (${percent(share(i, j))})`;
        const depth = i === j ? 0 : 0.9 * Math.sqrt(share(i, j) / most);
        const kind = [i === j && "right", n === 0 && "empty", depth > 0.6 && "deep"].filter(Boolean).join(" ");
        const cell = h(
          "td",
          { role: "gridcell", class: kind || null, tabindex: -1, "aria-label": words, "data-given": i, "data-predicted": j },
          n ? String(n) : "",
        );
        if (n && i !== j) cell.style.setProperty("--share", depth.toFixed(3));
        return cell;
      }),
    );
    const grid = h(
      "table",
      { class: "matrix", role: "grid", "aria-label": "Confusion matrix: rows are given labels, columns predictions", "aria-readonly": "true" },
      h("thead", {}, h("tr", {}, h("th", {}, h("small", { class: "soft" }, "given ↓ predicted →")), shown.map((j) => h("th", { scope: "col", title: classes[j] }, h("span", {}, classes[j]))))),
      h("tbody", {}, cells.map((row, at) => h("tr", {}, h("th", { scope: "row", title: classes[shown[at]] }, classes[shown[at]]), row))),
    );
    let at = [0, 0];
    const first = cells[0]?.[0];
    if (first) first.tabIndex = 0;
    const place = (cell) => [cell.parentNode.rowIndex - 1, cell.cellIndex - 1];
    const point = (cell) => {
      detail.textContent = cell.getAttribute("aria-label");
    };
    const open = (cell) => {
      if (!cell.classList.contains("empty")) gallery.show({ given: +cell.dataset.given, predicted: +cell.dataset.predicted });
    };
    function go(row, column) {
      const end = shown.length - 1;
      cells[at[0]][at[1]].tabIndex = -1;
      at = [Math.max(0, Math.min(end, row)), Math.max(0, Math.min(end, column))];
      const cell = cells[at[0]][at[1]];
      cell.tabIndex = 0;
      cell.focus();
    }
    grid.addEventListener("keydown", (event) => {
      const [row, column] = at;
      const end = shown.length - 1;
      const moves = {
        ArrowUp: [row - 1, column],
        ArrowDown: [row + 1, column],
        ArrowLeft: [row, column - 1],
        ArrowRight: [row, column + 1],
        Home: [event.ctrlKey ? 0 : row, 0],
        End: [event.ctrlKey ? end : row, end],
      };
      if (event.key in moves) go(...moves[event.key]);
      else if (event.key === "Enter" || event.key === " ") open(cells[row][column]);
      else return;
      event.preventDefault();
    });
    const cellOf = (event) => event.target.closest("td");
    grid.addEventListener("mouseover", (event) => cellOf(event) && point(cellOf(event)));
    grid.addEventListener("focusin", (event) => cellOf(event) && point(cellOf(event)));
    grid.addEventListener("click", (event) => {
      const cell = cellOf(event);
      if (!cell) return;
      go(...place(cell));
      open(cell);
    });
    return [
      h("p", { class: "soft" }, `${report.subject.name}. Rows are given labels, columns predictions, in an order that brings confused classes together. The colour is the share of a row, errors only. Arrow keys move, Enter opens a cell.`),
      shown.length < classes.length &&
        h("p", {}, `The ${shown.length} classes with the most errors of ${count(classes.length)}; the table below has all.`),
      detail,
      h("div", { class: "scroll" }, grid),
      report.pairs.length > 0 && [h("h3", {}, "Most confused pairs"), pairs()],
    ];
  }

  function pairs() {
    return table(
      "Most confused pairs",
      ["pair", ["first taken for second", "number"], ["second taken for first", "number"], ""],
      report.pairs.map(({ a, b, a_as_b, b_as_a }) => {
        const either = (id) => {
          const [given, guess] = [clips.label[id], clips.predicted[id]];
          return (given === a && guess === b) || (given === b && guess === a);
        };
        const name = `${classes[a]} and ${classes[b]}`;
        return h(
          "tr",
          {},
          h("th", { scope: "row", class: "name" }, name),
          number(count(a_as_b)),
          number(count(b_as_a)),
          h("td", {}, link("clips", () => gallery.show({ only: { text: `confused: ${name}`, test: either } }), `Clips of ${name}, confused`)),
        );
      }),
    );
  }

  function perClass() {
    const shown = strip(report.per_class.map((row) => row.f1), { width: 180 });
    const heads = [
      ["class", "", (row) => classes[row.class]],
      ["clips", "number", (row) => row.clips],
      ["precision", "number", (row) => row.precision[0]],
      ["recall", "number", (row) => row.recall[0]],
      ["F1", "number", (row) => row.f1[0]],
    ];
    const drawn = sortable(heads, report.per_class, (row) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", class: "name" }, link(classes[row.class], () => gallery.show({ given: row.class }), `Clips given as ${classes[row.class]}`)),
        number(count(row.clips)),
        number(rated(row.precision)),
        number(rated(row.recall)),
        number(rated(row.f1, decimal)),
        h("td", {}, shown.row(row.f1)),
      ),
    );
    drawn.tHead.rows[0].append(plotted(h("span", { class: "unseen" }, "F1 with interval"), shown.head()));
    return [h("p", { class: "soft" }, "Recall is the share of a class's clips that are found, precision the share of its predictions that are right."), scrolling("Classes", drawn, "tall")];
  }

  function calibration() {
    const bins = report.reliability;
    const low = Math.min(0.9, Math.floor(range(bins.flatMap((bin) => [bin.confidence, ...bin.accuracy]))[0] * 10) / 10);
    const side = { domain: [low, 1], factor: 100 };
    const drawing = axes(
      `Reliability: accuracy against confidence in ${bins.length} bins; calibration error ${percent(report.subject.scores.ece[0])}`,
      { ...side, label: "confidence, %" },
      { ...side, label: "accuracy, %" },
      { width: 340, height: 340 },
    );
    const { chart, px, py } = drawing;
    chart.append(path([low, 1], [low, 1], drawing, "guide"));
    for (const bin of bins) {
      const words = `confidence ${percent(bin.confidence)}, accuracy ${percent(bin.accuracy[0])} (${interval(bin.accuracy)}), ${plural(bin.clips, "clip")}`;
      chart.append(whiskered(px(bin.confidence), bin.accuracy, py, words));
    }
    const { ece } = report.subject.scores;
    return h(
      "figure",
      { class: "chart" },
      h("figcaption", {}, h("b", {}, "Does 90 % mean 90 %?"), h("br"), h("span", { class: "soft" }, `Calibration error ${percent(ece[0])}${interval(ece) && ` (${interval(ece)})`}. On the dashed line probabilities mean what they say; below it they promise too much.`)),
      chart,
    );
  }

  function coverage() {
    const { points: steps, target, at_target: reached, note } = report.coverage;
    const column = (i) => steps.map((step) => step[i]);
    const x = { domain: [Math.min(...column(0), 0.5), 1], label: "threshold of the confidence, %", factor: 100 };
    const floor = Math.min(0.98, rounded(range(column(2))[0], 1)[0]);
    const size = { width: 340, height: 175 };
    const top = axes(`Precision of what is labelled, by threshold; the target is ${percent(target, 0)}`, x, { domain: [floor, 1], label: "right, % of the labelled", factor: 100 }, size);
    const bottom = axes("Share of clips that are labelled, by threshold", x, { domain: [0, 1], label: "labelled, % of all", factor: 100 }, size);
    const guide = (drawing, at) => drawing.chart.append(svg("line", { class: "mark", x1: drawing.px(at), x2: drawing.px(at), y1: 20, y2: 137 }));
    top.chart.append(path(x.domain, [target, target], top, "guide"));
    top.chart.append(path(column(0), column(2), top, "line"));
    bottom.chart.append(path(column(0), column(1), bottom, "line"));
    if (reached) {
      guide(top, reached.threshold);
      guide(bottom, reached.threshold);
    }
    const output = h("output", { for: "threshold" });
    const input = h("input", { type: "range", id: "threshold", min: 0, max: steps.length - 1, step: 1 });
    const nearest = (at) => steps.reduce((best, step, i) => (Math.abs(step[0] - at) < Math.abs(steps[best][0] - at) ? i : best), 0);
    const tell = () => {
      const [threshold, share, precision] = steps[+input.value];
      const words = `At ${percent(threshold)}: ${percent(share)} of the clips are labelled, ${percent(precision)} of those right.`;
      output.textContent = words;
      input.setAttribute("aria-valuetext", words);
    };
    input.addEventListener("input", tell);
    input.value = nearest(reached ? reached.threshold : 0.9);
    if (steps.length) tell();
    const words = reached
      ? `${percent(reached.coverage)} of the clips can be labelled, ${percent(reached.precision[0])} (${interval(reached.precision)}) of them rightly, where ${percent(target, 0)} is aimed at: those with a confidence of ${percent(reached.threshold, reached.threshold > 0.999 ? 3 : 1)} or more.`
      : `No threshold reaches ${percent(target, 0)}.`;
    return h(
      "figure",
      { class: "chart" },
      h("figcaption", {}, h("b", {}, "How much can be labelled by itself?"), h("br"), h("span", { class: "soft" }, words)),
      top.chart,
      bottom.chart,
      steps.length > 0 && h("div", { class: "readout" }, h("label", { for: "threshold" }, "Threshold"), input, output),
      note && h("p", { class: "soft" }, h("small", {}, note)),
    );
  }

  function factors() {
    return [
      h("p", { class: "soft" }, "Share of errors with 95 % intervals, clips in bins. A factor that stands out need not be the cause."),
      h(
        "div",
        { class: "charts" },
        report.factors.map((factor) => {
          const top = Math.max(0.01, rounded(0, range(factor.bins.flatMap((bin) => bin.error))[1])[1]);
          const apart = Math.ceil(factor.bins.length / 3); // there is room for three labels; the others show under the pointer
          const marks = factor.bins.map((_, i) => i).filter((i) => i % apart === 0);
          const { chart, px, py } = axes(
            `Share of errors by ${factor.name}`,
            { domain: [-0.5, factor.bins.length - 0.5], label: factor.unit ? `${factor.name}, ${factor.unit}` : factor.name, marks, written: (i) => factor.bins[i].label },
            { domain: [0, top], label: "errors, %", factor: 100 },
            { width: 340, height: 200 },
          );
          factor.bins.forEach((bin, i) => {
            const words = `${bin.label} ${factor.unit}: ${percent(bin.error[0])} errors (${interval(bin.error)}), ${plural(bin.clips, "clip")}`;
            chart.append(whiskered(px(i), bin.error, py, words, "error"));
          });
          const fewest = Math.min(...factor.bins.map((bin) => bin.clips));
          return h("figure", { class: "chart" }, h("figcaption", {}, factor.name, " ", h("small", {}, `at least ${plural(fewest, "clip")} a bin`)), chart);
        }),
      ),
    ];
  }

  function groups() {
    const shown = strip(report.groups.map((group) => group.error), { factor: 100, kind: "error" });
    return scrolling(
      "Weak speakers",
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "speaker"), h("th", { scope: "col", class: "number" }, "clips"), h("th", { scope: "col", class: "number" }, "errors"), plotted("errors, %", shown.head()))),
        h(
          "tbody",
          {},
          report.groups.map((group) =>
            h(
              "tr",
              {},
              h(
                "th",
                { scope: "row", class: "name" },
                link(group.name, () => gallery.show({ only: { text: `speaker ${group.name}`, test: (id) => clips.group[id] === group.name } }), `Clips of speaker ${group.name}`),
                !group.weak && h("span", { class: "soft" }, " (within chance)"),
              ),
              number(count(group.clips)),
              number(rated(group.error)),
              h("td", {}, shown.row(group.error)),
            ),
          ),
        ),
      ),
      "tall",
    );
  }

  function duplicates() {
    return h(
      "ul",
      { class: "plain" },
      report.duplicates.map((found) => {
        const ids = new Set(found.clips);
        const names = found.clips.map((id) => clips.fname[id]).join(", ");
        return h("li", {}, link(names, () => gallery.show({ only: { text: `duplicates of ${clips.fname[found.clips[0]]}`, test: (id) => ids.has(id) } })), h("div", { class: "soft" }, found.note));
      }),
    );
  }

  // -------------------------------------------------------------------------------------------------- gallery

  const PAGE = 24; // clips at a time
  const NOTHING = { given: -1, predicted: -1, fold: -1, problem: "", text: "", outcome: "", order: "", sound: false, only: null };

  const gallery = (() => {
    let state = { ...NOTHING };
    let page = 0;
    let found = [];
    const cards = h("ol", { class: "cards", "aria-label": "Clips" });
    const told = h("p", { role: "status" });
    const pages = h("div", { class: "pages" });
    const chips = h("span");
    const heading = h("h2", { tabindex: -1 }, "Clips");
    const byClass = classes.map((name, i) => [i, name]);
    const kinds = [...new Set(clips.problems.flat())].sort();
    const folds = [...new Set(clips.fold)].sort((a, b) => a - b);
    const orders = {
      label: (a, b) => clips.p_label[a] - clips.p_label[b],
      confidence: (a, b) => clips.confidence[b] - clips.confidence[a],
      name: (a, b) => (clips.fname[a] < clips.fname[b] ? -1 : 1),
    };
    const haystack = clips.fname.map((name, id) => `${name} ${clips.group[id]} ${classes[clips.label[id]]} ${classes[clips.predicted[id]]}`.toLowerCase());

    const select = (name, options) => {
      const node = h("select", { name, change: () => change({ [name]: typeof NOTHING[name] === "number" ? +node.value : node.value }) });
      node.append(...options.map(([value, text]) => h("option", { value }, text)));
      return node;
    };
    const any = (name) => [NOTHING[name], "any"];
    const fields = {
      given: select("given", [any("given"), ...byClass]),
      predicted: select("predicted", [any("predicted"), ...byClass]),
      outcome: select("outcome", [any("outcome"), ["wrong", "errors"], ["right", "right"]]),
      fold: select("fold", [any("fold"), ...folds.map((fold) => [fold, String(fold)])]),
      problem: select("problem", [any("problem"), ...kinds.map((kind) => [kind, kind])]),
      order: select("order", [["", "as listed"], ["label", "least likely label first"], ["confidence", "most confident first"], ["name", "by file name"]]),
      text: h("input", { type: "search", name: "text", autocomplete: "off", spellcheck: "false", input: () => change({ text: fields.text.value }) }),
      sound: h("input", { type: "checkbox", name: "sound", change: () => change({ sound: fields.sound.checked }) }),
    };
    const onward = h("input", { type: "checkbox", name: "onward" });
    const labels = { given: "Given label", predicted: "Predicted label", outcome: "Outcome", fold: "Fold", problem: "Kind of problem", text: "Search file, speaker, label", order: "Order" };

    function matches(id) {
      const right = clips.label[id] === clips.predicted[id];
      return (
        (state.given < 0 || clips.label[id] === state.given) &&
        (state.predicted < 0 || clips.predicted[id] === state.predicted) &&
        (state.fold < 0 || clips.fold[id] === state.fold) &&
        (!state.outcome || right === (state.outcome === "right")) &&
        (!state.problem || clips.problems[id].includes(state.problem)) &&
        (!state.sound || clips.audio[id] !== null) &&
        (!state.only || state.only.test(id)) &&
        (!state.text || haystack[id].includes(state.text.trim().toLowerCase()))
      );
    }

    function change(part) {
      state = { ...state, ...part };
      page = 0;
      draw();
    }

    /** Show what `part` asks for and nothing else narrows, and go there. */
    function show(part) {
      change({ ...NOTHING, ...part });
      for (const [name, field] of Object.entries(fields)) {
        if (field.type === "checkbox") field.checked = state[name];
        else field.value = state[name];
      }
      if (location.hash !== "#clips") location.hash = "clips"; // so that the browser's Back leads back
      else heading.scrollIntoView();
      heading.focus({ preventScroll: true });
    }

    function summary() {
      const total = `${count(found.length)} of ${plural(listed, "listed clip")}`;
      if (state.given < 0 || state.predicted < 0) return `${total}.`;
      const [given, guess] = [state.given, state.predicted];
      const own = clips.label.reduce((sum, label, id) => sum + (label === given && clips.predicted[id] === guess), 0);
      return `${total}. ${count(own)} of ${count(report.confusion.counts[given][guess])} clips given as ${classes[given]} and predicted as ${classes[guess]} are listed.`;
    }

    function draw() {
      stop();
      found = [];
      for (let id = 0; id < listed; id++) if (matches(id)) found.push(id);
      if (state.order) found.sort(orders[state.order]);
      told.textContent = summary();
      const narrowed = Object.entries(NOTHING).some(([name, value]) => state[name] !== value);
      chips.replaceChildren(
        ...(state.only ? [h("button", { type: "button", class: "chip", click: () => change({ only: null }), "aria-label": `No longer only ${state.only.text}` }, state.only.text, " ×"), " "] : []),
        ...(narrowed ? [h("button", { type: "button", class: "link", click: () => show({}) }, "Show all")] : []),
      );
      turn(page);
    }

    function turn(to) {
      stop();
      page = to;
      const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
      cards.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card));
      const step = (text, by, allowed) =>
        h("button", { type: "button", class: "quiet", disabled: !allowed, click: () => { turn(page + by); heading.scrollIntoView(); heading.focus({ preventScroll: true }); } }, text);
      pages.replaceChildren(...(last ? [step("Previous", -1, page > 0), h("span", {}, `Page ${page + 1} of ${last + 1}`), step("Next", 1, page < last)] : []));
    }

    // One clip sounds at a time.
    let sounding = null;
    function stop() {
      if (sounding) sounding.pause();
      sounding = null;
    }

    function player(id) {
      const audio = h("audio", { preload: "metadata", src: clips.audio[id].startsWith("data:audio/") ? clips.audio[id] : null });
      const head = h("span", { class: "head" });
      const name = (verb) => `${verb} ${clips.fname[id]}`;
      const image = clips.mel[id]?.startsWith("data:image/") ? h("img", { src: clips.mel[id], alt: "", decoding: "async" }) : null;
      const button = h("button", { type: "button", class: "play", "aria-label": name("Play") }, image, head, h("span", { class: "icon" }));
      const follow = () => {
        head.style.left = `${(100 * audio.currentTime) / (audio.duration || 1)}%`;
        if (!audio.paused) requestAnimationFrame(follow);
      };
      audio.addEventListener("play", () => {
        button.classList.add("playing");
        button.setAttribute("aria-label", name("Pause"));
        follow();
      });
      audio.addEventListener("pause", () => {
        button.classList.remove("playing");
        button.setAttribute("aria-label", name("Play"));
      });
      audio.addEventListener("ended", () => {
        const next = onward.checked && beside(button, 1);
        if (next) {
          next.focus();
          next.click();
        }
      });
      button.addEventListener("click", () => {
        const pause = !audio.paused;
        stop();
        if (pause) return;
        sounding = audio;
        audio.play().catch(() => {
          told.textContent = "This browser cannot play the sound.";
        });
      });
      return [button, audio];
    }

    /** The play button `by` places after `button`, if there is one. */
    function beside(button, by) {
      const buttons = [...cards.querySelectorAll(".play")];
      return buttons[buttons.indexOf(button) + by];
    }
    cards.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by || !event.target.classList.contains("play")) return;
      beside(event.target, by)?.focus();
      event.preventDefault();
    });

    /** A path that may be broken after its slashes. */
    const breakable = (name) => name.split("/").flatMap((part, i) => (i ? ["/", h("wbr"), part] : [part]));

    function card(id) {
      const [given, guess] = [clips.label[id], clips.predicted[id]];
      const rows = given === guess ? [["right", given, clips.confidence[id]]] : [["given", given, clips.p_label[id]], ["predicted", guess, clips.confidence[id]]];
      for (const [other, p] of clips.top[id]) if (other !== given && other !== guess && rows.length < 3) rows.push(["", other, p]);
      const answer = ([role, index, p]) => {
        const kind = index === given ? "given" : index === guess ? "guess wrong" : null;
        const bar = h("div");
        bar.style.width = `${100 * (p ?? 0)}%`;
        return h("li", { class: kind }, h("span", { class: "role" }, role), h("span", { class: "label", title: classes[index] }, classes[index]), h("span", {}, chance(p)), h("div", { class: "share", "aria-hidden": "true" }, bar));
      };
      const facts = [clips.group[id] && `speaker ${clips.group[id]}`, `fold ${clips.fold[id]}`, known(clips.seconds[id]) && `${clips.seconds[id].toFixed(2)}\u00a0s`].filter(Boolean);
      return h(
        "li",
        { class: "card", "data-clip": id },
        clips.audio[id] ? player(id) : h("div", { class: "silent" }, "Sound not embedded"),
        h(
          "div",
          { class: "inside" },
          h("ul", { class: "answers" }, rows.map(answer)),
          clips.problems[id].length > 0 && h("ul", { class: "tags" }, clips.problems[id].map((kind) => h("li", { class: "tag" }, kind))),
          h("p", { class: "file" }, h("code", {}, breakable(clips.fname[id])), h("br"), facts.join(", ")),
        ),
      );
    }

    function build() {
      const silent = clips.audio.some((sound) => sound?.startsWith("data:audio/ogg")) && !document.createElement("audio").canPlayType("audio/ogg; codecs=opus");
      const section = [
        heading,
        h("p", { class: "soft" }, `${report.media_note} In a picture time runs to the right and low frequencies are at the bottom.`),
        silent && h("p", {}, "This browser cannot play Ogg Opus. Chrome, Edge, Firefox and Safari from version 18.4 can."),
        h(
          "form",
          { class: "filters", role: "search", "aria-label": "Filters", submit: (event) => event.preventDefault() },
          Object.entries(labels).map(([name, text]) => h("label", {}, text, fields[name])),
          h("label", { class: "check" }, fields.sound, "only with sound"),
          h("label", { class: "check" }, onward, "play in sequence"),
        ),
        h("div", { class: "found" }, told, chips),
        cards,
        pages,
      ];
      draw();
      return section;
    }
    return { show, build };
  })();

  // ----------------------------------------------------------------------------------------------------- page

  const sections = [
    ["verdict", "Verdict", null, verdict],
    ["runs", "Runs", "Runs", runs, report.runs.length],
    ["curves", "Curves", "Learning curves", curves, report.runs.some((run) => run.history.length)],
    ["comparisons", "Comparisons", "Comparisons", comparisons, report.comparisons.length],
    ["ensemble", "Ensemble", "Ensemble", ensemble, report.ensemble],
    ["confusion", "Confusion", "What is taken for what", confusion],
    ["classes", "Classes", "Classes", perClass],
    ["calibration", "Confidence", "Can the confidence be trusted?", () => h("div", { class: "columns" }, calibration(), coverage())],
    ["factors", "Factors", "What errors go with", factors, report.factors.length],
    ["speakers", "Speakers", "Weak speakers", groups, report.groups.length],
    ["duplicates", "Duplicates", "Near duplicates with different predictions", duplicates, report.duplicates.length],
    ["clips", "Clips", null, gallery.build],
  ].filter(([, , , , needed]) => needed === undefined || needed);

  const main = document.querySelector("main");
  for (const [id, short, title, build] of sections) {
    main.append(h("section", { id, "aria-label": title ?? short }, title && h("h2", {}, title), build()));
    document.querySelector("nav").append(h("a", { href: `#${id}` }, short));
  }
  main.append(h("footer", {}, report.method.map((sentence) => h("p", {}, sentence)), h("p", {}, report.made)));
  document.title = report.title;

  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const keep = (value) => {
    try {
      if (value) localStorage.setItem("theme", value);
      return localStorage.getItem("theme");
    } catch {
      return null; // a browser may refuse storage to a local file
    }
  };
  const paint = () => {
    root.dataset.theme = chosen ?? (system.matches ? "dark" : "light");
    theme.textContent = root.dataset.theme === "dark" ? "Light" : "Dark";
    theme.setAttribute("aria-label", `${theme.textContent} colours`);
  };
  let chosen = keep();
  if (chosen !== "dark" && chosen !== "light") chosen = null;
  theme.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    keep(chosen);
    paint();
  });
  system.addEventListener("change", paint);
  paint();
})();
