/* A box in a vector field: its outward flux over its area, beside the divergence at its centre. */
courseKit.builders["divergence-box"] = (stage) => {
  "use strict";
  const { PLAIN, colour, element, within, integral, makeBoard, movable, handle, arrows, select, button, readouts, legend, animate } =
    courseKit;
  const [LIMIT, SMALLEST, GRIP] = [2.5, 0.05, 0.2]; // the box stays within ±LIMIT, the board leaves room for its arrows

  /* v is the field, div its divergence; fade < 1 evens out the background arrows of a field that grows steeply. */
  const FIELDS = {
    source: { name: "source: (x, y)", v: (x, y) => [x, y], div: () => 2 },
    rotation: { name: "rotation: (−y, x)", v: (x, y) => [-y, x], div: () => 0 },
    shear: { name: "shear: (y, 0)", v: (x, y) => [y, 0], div: () => 0 },
    saddle: { name: "saddle: (x, −y)", v: (x, y) => [x, -y], div: () => 0 },
    polynomial: { name: "(x²y, xy³)", v: (x, y) => [x * x * y, x * y ** 3], div: (x, y) => 2 * x * y + 3 * x * y * y, fade: 0.4 },
    waves: {
      name: "pond: springs and drains",
      v: (x, y) => [Math.sin(x) * Math.cos(y), Math.cos(x) * Math.sin(y)],
      div: (x, y) => 2 * Math.cos(x) * Math.cos(y),
    },
  };
  const START = { field: "waves", x: 1.3, y: -0.1, width: 1.6, height: 1.6 }; // as in the still picture
  let state = { ...START };
  let stopShrinking = () => {};

  function values() {
    const { v, div } = FIELDS[state.field];
    const [left, right] = [state.x - state.width / 2, state.x + state.width / 2];
    const [low, high] = [state.y - state.height / 2, state.y + state.height / 2];
    const flux =
      integral((y) => v(right, y)[0] - v(left, y)[0], low, high) + integral((x) => v(x, high)[1] - v(x, low)[1], left, right);
    const area = state.width * state.height;
    return { flux, area, density: flux / area, divergence: div(state.x, state.y) };
  }

  /* ---- What is drawn ---- */
  const board = makeBoard(stage, "A box in a vector field", LIMIT + 0.3);
  const panel = element("div", { class: "panel" });
  stage.append(panel);

  const grid = Array.from({ length: 13 }, (_, i) => -2.4 + 0.4 * i);
  function background() {
    const { v, fade = 1 } = FIELDS[state.field];
    const all = grid.flatMap((x) => grid.map((y) => [x, y, ...v(x, y)]));
    const longest = Math.max(...all.map(([, , a, b]) => Math.hypot(a, b)));
    return all.filter(([, , a, b]) => Math.hypot(a, b) > 1e-9).map(([x, y, a, b]) => {
      const scale = (0.36 * (Math.hypot(a, b) / longest) ** fade) / Math.hypot(a, b);
      return [x - (a * scale) / 2, y - (b * scale) / 2, a * scale, b * scale];
    });
  }

  /* Arrows outside the box along its normals: those that leave point away from it, those that enter point at it. */
  function crossing(sign) {
    const { x, y, width, height } = state;
    const along = (length) => {
      const n = Math.min(9, Math.max(1, Math.round(length / 0.2)));
      return Array.from({ length: n }, (_, i) => ((i + 0.5) / n - 0.5) * length);
    };
    const places = [-1, 1].flatMap((s) => [
      ...along(height).map((t) => [x + (s * width) / 2, y + t, s, 0]),
      ...along(width).map((t) => [x + t, y + (s * height) / 2, 0, s]),
    ]);
    const through = places.map(([px, py, nx, ny]) => {
      const [a, b] = FIELDS[state.field].v(px, py);
      return a * nx + b * ny;
    });
    const longest = Math.max(...through.map(Math.abs));
    return places.flatMap(([px, py, nx, ny], i) => {
      const length = (0.42 * sign * through[i]) / longest;
      if (!(length > 0.01)) return [];
      const [dx, dy] = [length * nx, length * ny];
      return [sign > 0 ? [px, py, dx, dy] : [px + dx, py + dy, -dx, -dy]];
    });
  }

  const corner = (sx, sy) => [() => state.x + (sx * state.width) / 2, () => state.y + (sy * state.height) / 2];
  const grip = [() => corner(1, 1)[0]() + GRIP, () => corner(1, 1)[1]() + GRIP];
  arrows(board, background, { strokeColor: colour("faint"), strokeWidth: 1.3 });
  const box = board.create("polygon", [corner(-1, -1), corner(1, -1), corner(1, 1), corner(-1, 1)], {
    ...PLAIN, fillColor: colour("ink"), fillOpacity: 0.06, vertices: { visible: false, ...PLAIN },
    borders: { ...PLAIN, strokeColor: colour("ink"), strokeWidth: 2 },
  });
  board.create("segment", [corner(1, 1), grip], { ...PLAIN, strokeColor: colour("ink"), strokeWidth: 1.5 });
  arrows(board, () => crossing(1), { strokeColor: colour("out"), strokeWidth: 2.4 });
  arrows(board, () => crossing(-1), { strokeColor: colour("in"), strokeWidth: 2.4 });

  /* ---- What moves it ---- */
  function set(change) {
    state = { ...state, ...change };
    for (const [centre, side] of [["x", "width"], ["y", "height"]]) {
      state[side] = within(state[side], SMALLEST, 2 * LIMIT);
      state[centre] = within(state[centre], state[side] / 2 - LIMIT, LIMIT - state[side] / 2);
    }
    draw();
  }
  function byHand(change) {
    stopShrinking();
    set(change);
  }
  const current = () => ({ ...state });
  const shift = (from, dx, dy) => byHand({ x: from.x + dx, y: from.y + dy });
  const room = (centre) => 2 * (LIMIT - Math.abs(centre));
  const stretch = (from, dx, dy) =>
    byHand({ width: Math.min(from.width + 2 * dx, room(from.x)), height: Math.min(from.height + 2 * dy, room(from.y)) });
  movable(board, box, current, shift);
  const centreHandle = handle(board, [() => state.x, () => state.y], current, shift);
  const cornerHandle = handle(board, grip, current, stretch);

  function shrink() {
    stopShrinking();
    if (Math.max(state.width, state.height) <= SMALLEST) set({ width: START.width, height: START.height });
    const { width, height } = state;
    const factor = SMALLEST / Math.max(width, height);
    stopShrinking = animate(3000, (t) => set({ width: width * factor ** t, height: height * factor ** t }));
  }

  const names = Object.fromEntries(Object.entries(FIELDS).map(([key, { name }]) => [key, name]));
  const chosen = select(panel, "Vector field", names, (field) => byHand({ field }));
  const show = readouts(panel, ["Outward flux", "Area", "Flux ÷ area", "Divergence at centre", "Difference"], [2, 3]);
  button(panel, "Shrink the box", shrink);
  const hint = "Drag the box or its corner; or move a handle with the arrow keys, with Shift in small steps.";
  legend(panel, { out: "flows out", in: "flows in" }, hint);

  function draw() {
    const { flux, area, density, divergence } = values();
    chosen.value = state.field;
    const [x, y, width, height] = [state.x, state.y, state.width, state.height].map((value) => value.toFixed(2));
    centreHandle.describe(`Centre of the box at x = ${x}, y = ${y}; move it with the arrow keys`);
    cornerHandle.describe(`Corner of the box, ${width} wide and ${height} high; move it with the arrow keys`);
    show([flux, area, density, divergence, density - divergence]);
    board.update();
  }
  draw();
  return { set, values };
};
