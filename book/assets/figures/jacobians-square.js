/* A square on a rubber sheet that is stretched: its true image, beside the parallelogram that the Jacobian makes of it. */
courseKit.builders["jacobians-square"] = (stage) => {
  "use strict";
  const {
    PLAIN, colour, element, within, steps, integral, makeBoard, titled, lines, arrows, movable, handle, select, button,
    readouts, legend, animate,
  } = courseKit;
  const [LIMIT, GRIP] = [2.5, 0.32]; // of the sheet; from the square's corner to its handle
  const [SMALLEST, LARGEST] = [0.05, 2]; // side of the square

  /* f is the map, J its Jacobian by rows.  The right board shows `wide` to all sides of `middle`. */
  const turned = (x, y) => {
    const [cos, sin] = [Math.cos((x * x + y * y) / 3), Math.sin((x * x + y * y) / 3)];
    return { cos, sin, u: cos * x - sin * y, v: sin * x + cos * y };
  };
  const MAPS = {
    waves: {
      name: "waves: (x + 0.4 sin 2y, y + 0.4 sin 2x)",
      f: (x, y) => [x + 0.4 * Math.sin(2 * y), y + 0.4 * Math.sin(2 * x)],
      J: (x, y) => [[1, 0.8 * Math.cos(2 * y)], [0.8 * Math.cos(2 * x), 1]],
      wide: 3.3,
    },
    linear: {
      name: "linear: (x + 0.6y, 0.2x + 0.9y)", f: (x, y) => [x + 0.6 * y, 0.2 * x + 0.9 * y], J: () => [[1, 0.6], [0.2, 0.9]],
      wide: 4.3,
    },
    mirror: { name: "mirror: (y, x)", f: (x, y) => [y, x], J: () => [[0, 1], [1, 0]], wide: 2.9 },
    whirl: {
      name: "whirl: turned by the angle r²/3",
      f: (x, y) => [turned(x, y).u, turned(x, y).v],
      J: (x, y) => {
        const { cos, sin, u, v } = turned(x, y);
        const [ax, ay] = [(2 * x) / 3, (2 * y) / 3]; // how the angle grows
        return [[cos - v * ax, -sin - v * ay], [sin + u * ax, cos + u * ay]];
      },
      wide: 4,
    },
    squares: {
      name: "squares: ((x² − y²)/2, xy)", f: (x, y) => [(x * x - y * y) / 2, x * y], J: (x, y) => [[x, -y], [y, x]],
      wide: 6.6, tick: 2,
    },
    pond: {
      name: "pond: one short step of its flow",
      f: (x, y) => [x + 0.3 * Math.sin(x) * Math.cos(y), y + 0.3 * Math.cos(x) * Math.sin(y)],
      J: (x, y) => {
        const [same, cross] = [0.3 * Math.cos(x) * Math.cos(y), -0.3 * Math.sin(x) * Math.sin(y)];
        return [[1 + same, cross], [cross, 1 + same]];
      },
      wide: 3,
    },
    article: {
      name: "article: (x² + 2y, 3x + 4y²)",
      f: (x, y) => [x * x + 2 * y, 3 * x + 4 * y * y],
      J: (x, y) => [[2 * x, 2], [3, 8 * y]],
      wide: 21, tick: 10, middle: [3, 12.5],
    },
  };
  const START = { map: "waves", x: 0.6, y: 0.4, side: 0.8 }; // as in the still picture
  let state = { ...START };
  let stopShrinking = () => {};

  /* The square's point with the coordinates (s, t), from (−1, −1) in its lower left corner to (1, 1). */
  const point = (s, t) => [state.x + (s * state.side) / 2, state.y + (t * state.side) / 2];
  const EDGES = [[-1, -1, 1, 0], [1, -1, 0, 1], [1, 1, -1, 0], [-1, 1, 0, -1]]; // start and direction, counter-clockwise

  /* The true image's signed area is ½ ∮ (u dv − v du) around it. */
  function values() {
    const { f, J } = MAPS[state.map];
    const [[j11, j12], [j21, j22]] = J(state.x, state.y);
    const [u0, v0] = f(state.x, state.y); // as the origin, it saves digits
    const along = EDGES.map(([s, t, ds, dt]) => {
      const swept = (k) => {
        const at = point(s + k * ds, t + k * dt);
        const [[u, v], [[ux, uy], [vx, vy]]] = [f(...at), J(...at)];
        return (u - u0) * (vx * ds + vy * dt) - (v - v0) * (ux * ds + uy * dt);
      };
      return (integral(swept, 0, 2) * state.side) / 4;
    });
    const ratio = along.reduce((sum, part) => sum + part) / state.side ** 2;
    return { j11, j12, j21, j22, det: j11 * j22 - j12 * j21, trace: j11 + j22, ratio };
  }

  /* ---- What is drawn ---- */
  const boards = element("div", { class: "boards" });
  const panel = element("div", { class: "panel" });
  stage.classList.add("wide");
  stage.append(boards, panel);
  const sheet = makeBoard(titled(boards, "The sheet"), "A square on the sheet", LIMIT + 0.5);
  const stretched = makeBoard(titled(boards, "The sheet, stretched"), "Its image on the stretched sheet", LIMIT);

  const image = (line) => line.map(([x, y]) => MAPS[state.map].f(x, y));
  const linear = (line) => {
    const { j11, j12, j21, j22 } = values();
    const [u, v] = MAPS[state.map].f(state.x, state.y);
    return line.map(([x, y]) => [x - state.x, y - state.y]).map(([a, b]) => [u + j11 * a + j12 * b, v + j21 * a + j22 * b]);
  };
  const printed = steps(-LIMIT, LIMIT, 10).flatMap((a) => {
    const fine = steps(-LIMIT, LIMIT, 80);
    return [fine.map((b) => [a, b]), fine.map((b) => [b, a])];
  });
  const outline = () => EDGES.flatMap(([s, t, ds, dt]) => steps(0, 2, 24).map((k) => point(s + k * ds, t + k * dt)));
  const corners = () => [...EDGES, EDGES[0]].map(([s, t]) => point(s, t));
  const sides = () => [[point(-1, -1), point(1, -1)], [point(-1, -1), point(-1, 1)]];

  const fixed = { strokeColor: colour("faint"), strokeWidth: 1, strokeOpacity: 0.75, needsRegularUpdate: false };
  const filled = { strokeColor: colour("out"), strokeWidth: 1.6, fillColor: colour("out"), fillOpacity: 0.28 };
  const approximate = { strokeColor: colour("in"), strokeWidth: 1.6 };
  const bold = { strokeColor: colour("in"), strokeWidth: 3 };
  lines(sheet, () => printed, fixed);
  lines(stretched, () => printed.map(image), fixed);
  const square = lines(sheet, () => [corners()], filled);
  lines(stretched, () => [image(outline())], filled);
  lines(stretched, () => [linear(corners())], approximate);
  for (const [board, vectors] of [[sheet, sides], [stretched, () => sides().map(linear)]]) {
    arrows(board, () => vectors().map(([[x, y], [x2, y2]]) => [x, y, x2 - x, y2 - y]), bold);
    for (const i of [0, 1]) {
      const beyond = (k) => () => {
        const [[from, to], [left, , right]] = [vectors()[i], board.getBoundingBox()];
        return to[k] + ((to[k] - from[k]) / Math.hypot(to[0] - from[0], to[1] - from[1]) || 0) * (right - left) * 0.03;
      };
      board.create("text", [beyond(0), beyond(1), `${i + 1}`], {
        ...PLAIN, display: "internal", fontSize: 13, strokeColor: colour("in"), anchorX: "middle", anchorY: "middle",
      });
    }
  }

  /* ---- What moves it ---- */
  function set(change) {
    state = { ...state, ...change };
    state.side = within(state.side, SMALLEST, LARGEST);
    const room = LIMIT - state.side / 2;
    [state.x, state.y] = [within(state.x, -room, room), within(state.y, -room, room)];
    draw();
  }
  function byHand(change) {
    stopShrinking();
    set(change);
  }
  const current = () => ({ ...state });
  const shift = (from, dx, dy) => byHand({ x: from.x + dx, y: from.y + dy });
  const room = ({ x, y }) => 2 * (LIMIT - Math.max(Math.abs(x), Math.abs(y)));
  const stretch = (from, dx, dy) => byHand({ side: Math.min(from.side + dx + dy, room(from)) });
  const corner = [() => point(1, 1)[0], () => point(1, 1)[1]];
  const grip = [() => point(1, 1)[0] + GRIP, () => point(1, 1)[1] + GRIP];
  sheet.create("segment", [corner, grip], { ...PLAIN, strokeColor: colour("ink"), strokeWidth: 1.5 });
  movable(sheet, square, current, shift);
  const centreHandle = handle(sheet, [() => state.x, () => state.y], current, shift);
  const cornerHandle = handle(sheet, grip, current, stretch);

  function shrink() {
    stopShrinking();
    if (state.side <= SMALLEST) set({ side: START.side });
    const { side } = state;
    stopShrinking = animate(3000, (t) => set({ side: side * (SMALLEST / side) ** t }));
  }

  const names = Object.fromEntries(Object.entries(MAPS).map(([key, { name }]) => [key, name]));
  const controls = element("div", { class: "panel" });
  panel.append(controls);
  const chosen = select(controls, "Map", names, (map) => byHand({ map }));
  const entries = ["∂f₁/∂x", "∂f₁/∂y", "∂f₂/∂x", "∂f₂/∂y"];
  const rest = ["Trace of J", "Side of the square", "det J", "Signed area ratio", "Difference"];
  const show = readouts(panel, [...entries, ...rest], [6, 7]);
  button(controls, "Shrink the square", shrink);
  const hint = "Drag the square or its corner; or move a handle with the arrow keys, with Shift in small steps.";
  const columns = "Arrows 1 and 2 are two sides of the square; on the right, the columns of J times the side.";
  legend(controls, { out: "true image", in: "by the Jacobian" }, `${hint} ${columns}`);

  let shown = null;
  function draw() {
    const { j11, j12, j21, j22, det, trace, ratio } = values();
    chosen.value = state.map;
    const [x, y, side] = [state.x, state.y, state.side].map((value) => value.toFixed(2));
    centreHandle.describe(`Centre of the square at x = ${x}, y = ${y}; move it with the arrow keys`);
    cornerHandle.describe(`Corner of the square, side ${side}; move it with the arrow keys`);
    show([j11, j12, j21, j22, trace, state.side, det, ratio, ratio - det]);
    if (shown !== state.map) {
      shown = state.map;
      const { wide, tick = 1, middle: [u, v] = [0, 0] } = MAPS[shown];
      for (const axis of Object.values(stretched.defaultAxes)) axis.defaultTicks.setAttribute({ ticksDistance: tick });
      stretched.setBoundingBox([u - wide, v + wide, u + wide, v - wide], true);
      stretched.fullUpdate();
    }
    sheet.update();
    stretched.update();
  }
  sheet.fullUpdate(); // once: what is printed on it stays
  draw();
  return { set, values };
};
