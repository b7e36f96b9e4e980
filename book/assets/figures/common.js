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

  const number = (value) => (Math.abs(value) < 5e-5 ? 0 : value).toFixed(4).replace("-", "−");

  /* A square board of half-width `limit` around the origin.  JSXGraph only draws: `handle` listens. */
  function makeBoard(stage, label, limit) {
    const host = element("div", { class: "jxgbox" });
    stage.append(host);
    const text = { strokeColor: colour("faint"), highlight: false, fontSize: 12, display: "internal" };
    const axis = { strokeColor: colour("faint"), highlight: false, ticks: { strokeColor: colour("faint"), label: text,
      insertTicks: false, ticksDistance: 1, minorTicks: 0, majorHeight: 8, drawZero: false, highlight: false } };
    const board = JXG.JSXGraph.initBoard(host, {
      boundingbox: [-limit, limit, limit, -limit], keepAspectRatio: true, axis: true, defaultAxes: { x: axis, y: axis },
      title: label, showCopyright: false, showNavigation: false, showInfobox: false,
      registerEvents: { pointer: false, keyboard: false, wheel: false, fullscreen: false, resize: true },
    });
    host.setAttribute("role", "group");
    boards.push(board);
    return board;
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

  /* A dot with a halo as wide as a finger, for mouse, touch and arrow keys. */
  function handle(board, position, state, move) {
    const look = { name: "", fixed: true, highlight: false, strokeWidth: 0, fillColor: colour("ink") };
    board.create("point", position, { ...look, size: 4.5 });
    const halo = board.create("point", position, { ...look, size: 17, fillOpacity: 0.14, strokeColor: colour("ink") });
    const node = halo.rendNode;
    movable(board, halo, state, move);
    node.addEventListener("pointerdown", () => node.focus({ preventScroll: true, focusVisible: false }));
    node.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!way) return;
      event.preventDefault(); // or the page scrolls
      const step = event.shiftKey ? 0.01 : 0.1;
      move(state(), step * way[0], step * way[1]);
    });
    node.setAttribute("tabindex", "0");
    node.setAttribute("role", "button");
    return { describe: (text) => node.setAttribute("aria-label", text) };
  }

  /* All arrows of a list [[x, y, dx, dy], …] as one curve; `list` is asked again at every update. */
  function arrows(board, list, look) {
    const curve = board.create("curve", [[], []], { lineCap: "round", highlight: false, fixed: true, ...look });
    curve.updateDataArray = function () {
      [this.dataX, this.dataY] = [[], []];
      for (const [x, y, dx, dy] of list()) {
        const [tipX, tipY] = [x + dx, y + dy];
        const head = Math.min(0.1, 0.4 * Math.hypot(dx, dy));
        const [left, right] = [2.7, -2.7].map((turn) => Math.atan2(dy, dx) + turn);
        this.dataX.push(x, tipX, NaN, tipX + head * Math.cos(left), tipX, tipX + head * Math.cos(right), NaN);
        this.dataY.push(y, tipY, NaN, tipY + head * Math.sin(left), tipY, tipY + head * Math.sin(right), NaN);
      }
    };
    return curve;
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

  /* Named numbers; a screen reader hears them once they have come to rest. */
  function readouts(panel, names) {
    const cells = names.map(() => element("dd"));
    const spoken = element("p", { class: "unseen", "aria-live": "polite" });
    panel.append(element("dl", {}, ...names.flatMap((name, i) => [element("dt", {}, name), cells[i]])), spoken);
    let timer = null;
    return (values) => {
      cells.forEach((cell, i) => (cell.textContent = number(values[i])));
      const rest = () => (spoken.textContent = names.map((name, i) => `${name}: ${cells[i].textContent}`).join(", "));
      if (timer !== null) clearTimeout(timer), (timer = setTimeout(rest, 700));
      else timer = 0; // nothing is said about the first drawing
    };
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
  window.courseKit = { builders: {}, mount, colour, element, makeBoard, movable, handle, arrows, select, button, readouts, animate };
})();
