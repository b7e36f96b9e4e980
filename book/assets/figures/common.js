/* What the interactive figures share: the board, handles, arrows, controls, read-outs, colours and motion.
   A figure's own file adds a builder to courseKit.builders; the builder draws into the stage it is given and
   returns what it wants to be reached by in courseFigures. */
(() => {
  "use strict";
  const boards = [];
  let palette = {};

  /* A colour of course.css as a function, so that JSXGraph asks again after a switch between light and dark. */
  function colour(name) {
    return () => (palette[name] ??= getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  }
  new MutationObserver(() => {
    palette = {};
    for (const board of boards) board.fullUpdate();
  }).observe(document.documentElement, { attributeFilter: ["data-theme"] });

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function number(value) {
    if (Number.isNaN(value)) return "–";
    return (Math.abs(value) < 5e-5 ? 0 : value).toFixed(4).replace("-", "−");
  }
  const within = (value, low, high) => Math.min(high, Math.max(low, value));

  /* n + 1 numbers from a to b. */
  const steps = (a, b, n) => Array.from({ length: n + 1 }, (_, i) => a + ((b - a) * i) / n);

  /* ∫ f from a to b */
  const integral = (f, a, b) => JXG.Math.Numerics.GaussLegendre([a, b], f, { n: 16 });

  /* A square board of half-width `limit` around the origin; or a flat one without axes that shows the window
     `plot`, [left, top, right, bottom].  JSXGraph only draws: `handle` listens. */
  function makeBoard(stage, label, limit, plot = null) {
    const host = element("div", { class: plot ? "jxgbox flat" : "jxgbox" });
    stage.append(host);
    const text = { strokeColor: colour("faint"), highlight: false, fontSize: 12, display: "internal" };
    const axis = { strokeColor: colour("faint"), highlight: false, ticks: { strokeColor: colour("faint"), label: text,
      insertTicks: false, ticksDistance: 1, minorTicks: 0, majorHeight: 8, drawZero: false, highlight: false } };
    const board = JXG.JSXGraph.initBoard(host, {
      boundingbox: plot ?? [-limit, limit, limit, -limit], keepAspectRatio: !plot, axis: !plot,
      defaultAxes: { x: axis, y: axis }, title: label, showCopyright: false, showNavigation: false, showInfobox: false,
      registerEvents: { pointer: false, keyboard: false, wheel: false, fullscreen: false, resize: true },
    });
    host.setAttribute("role", "group");
    boards.push(board);
    return board;
  }

  /* A place for a board with a line above it that says what the board shows. */
  function titled(boards, title) {
    return boards.appendChild(element("div", {}, element("p", { class: "hint" }, title)));
  }

  /* What JSXGraph would otherwise do to an element: name it, drag it, light it up. */
  const PLAIN = { name: "", fixed: true, highlight: false };

  /* Lines through the points of `list()`, [[[x, y], …], …], as one curve, with a fill where the look has one.
     A line that is the same at every update says so: `needsRegularUpdate: false`. */
  function lines(board, list, look) {
    const curve = board.create("curve", [[], []], { ...PLAIN, lineCap: "round", ...look });
    curve.updateDataArray = function () {
      [this.dataX, this.dataY] = [[], []];
      list().forEach((line, i) => {
        if (i > 0) this.dataX.push(NaN), this.dataY.push(NaN);
        for (const [x, y] of line) this.dataX.push(x), this.dataY.push(y);
      });
    };
    return curve;
  }

  /* Make a drawn element movable: `state()` is what a drag starts from, `move(start, dx, dy)` where it leads. */
  function movable(board, drawn, state, move) {
    const node = drawn.rendNode;
    let from = null;
    node.classList.add("handle");
    node.addEventListener("pointerdown", (event) => {
      from = { at: board.getUsrCoordsOfMouse(event), state: state() };
      node.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    node.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [x, y] = board.getUsrCoordsOfMouse(event);
      move(from.state, x - from.at[0], y - from.at[1]);
    });
    for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => (from = null));
  }

  const push = (move) => (from, right, up, fine) => move(from, (fine ? 0.01 : 0.1) * right, (fine ? 0.01 : 0.1) * up);

  /* A dot with a halo as wide as a finger, for mouse, touch and arrow keys: `press(state, right, up, fine)` is what
     a key does, with `right` and `up` −1, 0 or 1. */
  function handle(board, position, state, move, press = push(move), tint = "ink") {
    const look = { ...PLAIN, strokeWidth: 0, fillColor: colour(tint) };
    board.create("point", position, { ...look, size: 4.5 });
    const halo = board.create("point", position, { ...look, size: 17, fillOpacity: 0.14, strokeColor: colour(tint) });
    const node = halo.rendNode;
    node.addEventListener("pointerdown", (event) => { // where halos overlap, the nearest dot is meant
      const off = (other) => {
        const { left, top, width, height } = other.getBoundingClientRect();
        return Math.hypot(event.clientX - left - width / 2, event.clientY - top - height / 2);
      };
      const all = [...board.containerObj.querySelectorAll("ellipse.handle")];
      const nearest = all.reduce((best, other) => (off(other) < off(best) ? other : best), node);
      if (nearest === node) return;
      event.stopImmediatePropagation();
      event.preventDefault();
      nearest.dispatchEvent(new PointerEvent("pointerdown", event));
    });
    movable(board, halo, state, move);
    node.addEventListener("pointerdown", () => node.focus({ preventScroll: true, focusVisible: false }));
    node.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!way) return;
      event.preventDefault(); // or the page scrolls
      press(state(), ...way, event.shiftKey);
    });
    node.setAttribute("tabindex", "0");
    node.setAttribute("role", "button");
    return { describe: (text) => node.setAttribute("aria-label", text) };
  }

  /* All arrows of a list [[x, y, dx, dy], …] as one curve; `list` is asked again at every update. */
  function arrows(board, list, look) {
    const drawn = ([x, y, dx, dy]) => {
      const [left, , right] = board.getBoundingBox();
      const [head, turn] = [Math.min((right - left) / 56, 0.4 * Math.hypot(dx, dy)), Math.atan2(dy, dx)];
      const barb = (side) => [x + dx + head * Math.cos(turn + side), y + dy + head * Math.sin(turn + side)];
      return [[[x, y], [x + dx, y + dy]], [barb(2.7), [x + dx, y + dy], barb(-2.7)]];
    };
    return lines(board, () => list().flatMap(drawn), look);
  }

  function select(panel, label, options, choose) {
    const box = element("select", {}, ...Object.entries(options).map(([value, text]) => element("option", { value }, text)));
    box.addEventListener("change", () => choose(box.value));
    panel.append(element("label", {}, label, box));
    return box;
  }

  function button(panel, text, press) {
    const node = element("button", { type: "button" }, text);
    node.addEventListener("click", press);
    panel.append(node);
  }

  /* Named numbers; `main` are those that the figure compares.  A screen reader hears them once they have come to rest. */
  function readouts(panel, names, main = [2, 3]) {
    const cells = names.map(() => element("dd"));
    const spoken = element("p", { class: "unseen", "aria-live": "polite" });
    panel.append(element("dl", {}, ...names.flatMap((name, i) => [element("dt", {}, name), cells[i]])), spoken);
    for (const i of main) cells[i].classList.add("main"), cells[i].previousSibling.classList.add("main");
    let timer = null;
    return (values) => {
      cells.forEach((cell, i) => (cell.textContent = number(values[i])));
      const rest = () => (spoken.textContent = names.map((name, i) => `${name}: ${cells[i].textContent}`).join(", "));
      if (timer !== null) clearTimeout(timer), (timer = setTimeout(rest, 700));
      else timer = 0; // nothing is said about the first drawing
    };
  }

  /* The colours' names, { out: …, in: … }, and what a hand can do. */
  function legend(panel, names, hint) {
    const key = Object.entries(names).map(([name, text]) => element("span", { class: name }, text));
    panel.append(element("p", { class: "key" }, ...key), element("p", { class: "hint" }, hint));
  }

  /* Call step(t) with t from 0 to 1; with reduced motion only step(1).  Returns a function that stops it. */
  function animate(milliseconds, step) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return step(1), () => {};
    const begin = performance.now();
    let frame = requestAnimationFrame(function next(now) {
      const t = Math.min(1, Math.max(0, (now - begin) / milliseconds));
      step(t);
      if (t < 1) frame = requestAnimationFrame(next);
    });
    return () => cancelAnimationFrame(frame);
  }

  function mount(name, figure) {
    const stage = element("div", { class: "live" });
    figure.prepend(stage);
    try {
      window.courseFigures[name] = window.courseKit.builders[name](stage);
      figure.dataset.live = "on";
    } catch (error) {
      stage.remove(); // the image is still there
      throw error;
    }
  }

  window.courseFigures = {};
  window.courseKit = {
    builders: {}, mount, PLAIN, colour, element, within, steps, integral, makeBoard, titled, lines, arrows, movable, handle,
    select, button, readouts, legend, animate,
  };
})();
