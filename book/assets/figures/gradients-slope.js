/* A hiker on a contour map: the slope in the direction she faces, beside the length of the gradient. */
courseKit.builders["gradients-slope"] = (stage) => {
  "use strict";
  const {
    PLAIN, colour, element, within, steps, makeBoard, titled, lines, arrows, handle, select, button, readouts, legend, animate,
  } = courseKit;
  const [EDGE, LIMIT, RADIUS] = [2.5, 2.2, 0.75]; // of the map, of the hiker's walk, and of the circle of directions
  const STEEPEST = 1.6; // the gradient's arrow: RADIUS for slope 1, and no longer than this many

  /* f is the height, df its two partial derivatives; the contours lie at `levels`. */
  const bump = (x, y) => 1.5 * Math.exp(-((x - 0.9) ** 2) - (y - 0.5) ** 2);
  const knoll = (x, y) => 0.9 * Math.exp(-((x + 1.1) ** 2) - 2 * (y + 0.6) ** 2);
  const SURFACES = {
    hills: {
      name: "two hills",
      f: (x, y) => bump(x, y) + knoll(x, y),
      df: (x, y) => [
        -2 * (x - 0.9) * bump(x, y) - 2 * (x + 1.1) * knoll(x, y),
        -2 * (y - 0.5) * bump(x, y) - 4 * (y + 0.6) * knoll(x, y),
      ],
      levels: steps(0.1, 1.4, 13),
    },
    plane: {
      name: "plane: 0.3x − 0.4y", f: (x, y) => 0.3 * x - 0.4 * y, df: () => [0.3, -0.4], levels: steps(-1.6, 1.6, 16),
    },
    bowl: {
      name: "bowl: (x² + 3y²)/6", f: (x, y) => (x * x + 3 * y * y) / 6, df: (x, y) => [x / 3, y], levels: steps(0.1, 4, 13),
    },
    saddle: {
      name: "saddle: (x² − y²)/4", f: (x, y) => (x * x - y * y) / 4, df: (x, y) => [x / 2, -y / 2],
      levels: steps(-1.4, 1.4, 14),
    },
    bend: {
      name: "bend: a curved valley",
      f: (x, y) => ((1 - x) ** 2 + 5 * (y - x * x) ** 2) / 20,
      df: (x, y) => [(x - 1) / 10 - x * (y - x * x), (y - x * x) / 2],
      levels: [0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 11, 14],
    },
  };
  /* As in the still picture; the angle is that of the direction, in degrees counter-clockwise from east. */
  let state = { surface: "hills", x: 0.2, y: -0.4, angle: 10 };
  let stopTurning = () => {};

  const radians = (degrees) => (degrees * Math.PI) / 180;
  const facing = (from = state) => [Math.cos(radians(from.angle)), Math.sin(radians(from.angle))];

  /* `angle` is the one between direction and gradient; a gradient of length 0 has no direction. */
  function values() {
    const { f, df } = SURFACES[state.surface];
    const [[dx, dy], [ex, ey]] = [df(state.x, state.y), facing()];
    const [slope, length] = [dx * ex + dy * ey, Math.hypot(dx, dy)];
    const angle = length > 0 ? Math.atan2(Math.abs(dx * ey - dy * ex), slope) / radians(1) : NaN;
    return { height: f(state.x, state.y), slope, length, dx, dy, angle };
  }

  /* ---- What is drawn ---- */
  const boards = element("div", { class: "boards" });
  const panel = element("div", { class: "panel" });
  stage.append(boards, panel);
  const board = makeBoard(boards, "A contour map with a hiker on it", EDGE + 0.6);

  /* The contours of a surface, level by level: each triangle of a fine mesh that a level cuts holds a piece of one. */
  const mesh = steps(-EDGE, EDGE, 80);
  function contours({ f, levels }) {
    const corner = mesh.map((x) => mesh.map((y) => [x, y, f(x, y)]));
    const pieces = levels.map(() => []);
    const cut = ([x, y, from], [x2, y2, to], level) => {
      const t = (level - from) / (to - from);
      return [x + t * (x2 - x), y + t * (y2 - y)];
    };
    for (let i = 0; i + 1 < mesh.length; i++) {
      for (let j = 0; j + 1 < mesh.length; j++) {
        const [a, c] = [corner[i][j], corner[i + 1][j + 1]];
        for (const b of [corner[i + 1][j], corner[i][j + 1]]) {
          levels.forEach((level, n) => {
            const sides = [[a, b], [b, c], [a, c]].filter(([p, q]) => p[2] > level !== q[2] > level);
            if (sides.length) pieces[n].push(sides.map(([p, q]) => cut(p, q, level)));
          });
        }
      }
    }
    return pieces.map(joined);
  }

  /* Pieces that share an end, as long lines: drawn one by one, they would look like strings of beads. */
  function joined(pieces) {
    const meeting = new Map();
    const used = new Set();
    for (const piece of pieces) for (const end of piece) meeting.set(`${end}`, [...(meeting.get(`${end}`) ?? []), piece]);
    function extended(line) {
      for (let piece; (piece = meeting.get(`${line.at(-1)}`).find((other) => !used.has(other))); used.add(piece)) {
        line.push(`${piece[0]}` === `${line.at(-1)}` ? piece[1] : piece[0]);
      }
      return line;
    }
    return pieces.flatMap((piece) => {
      if (used.has(piece)) return [];
      used.add(piece);
      return [extended(extended([...piece]).reverse())];
    });
  }

  const maps = {};
  for (let n = 0; n < Math.max(...Object.values(SURFACES).map(({ levels }) => levels.length)); n++) {
    lines(board, () => (maps[state.surface] ??= contours(SURFACES[state.surface]))[n] ?? [], {
      strokeColor: colour("ink"), strokeWidth: 1.2, needsRegularUpdate: false,
      strokeOpacity: () => 0.15 + (0.5 * n) / SURFACES[state.surface].levels.length,
    });
  }
  lines(board, () => [[[-EDGE, -EDGE], [EDGE, -EDGE], [EDGE, EDGE], [-EDGE, EDGE], [-EDGE, -EDGE]]], {
    strokeColor: colour("faint"), strokeWidth: 1,
  });

  const at = [() => state.x, () => state.y];
  const tip = (from = state) => [from.x + RADIUS * facing(from)[0], from.y + RADIUS * facing(from)[1]];
  board.create("circle", [at, RADIUS], { ...PLAIN, strokeColor: colour("ink"), strokeWidth: 1, strokeOpacity: 0.4 });
  function uphill() {
    const { dx, dy, length } = values();
    const scale = RADIUS * Math.min(1, STEEPEST / length);
    return length > 0 ? [[state.x, state.y, scale * dx, scale * dy]] : [];
  }
  arrows(board, uphill, { strokeColor: colour("out"), strokeWidth: 5 });
  const ahead = () => [[state.x, state.y, tip()[0] - state.x, tip()[1] - state.y]];
  arrows(board, ahead, { strokeColor: colour("in"), strokeWidth: 2.4 });

  /* The slope in all directions, drawn to the next round number above the largest. */
  const below = titled(boards, "The slope in every direction, counter-clockwise from east:");
  const wheel = makeBoard(below, "The slope in every direction", null, [-38, 1.3, 412, -1.55]);
  const full = () => [0.2, 0.5, 1, 2, 5, 10, 20].find((round) => round >= values().length);
  const level = (slope) => [[0, slope / full()], [360, slope / full()]];
  const faint = { strokeColor: colour("faint"), strokeWidth: 1 };
  lines(wheel, () => [level(0), ...steps(0, 360, 4).map((angle) => [[angle, -1], [angle, 1]])], faint);
  const bounds = () => [level(values().length), level(-values().length)];
  lines(wheel, bounds, { strokeColor: colour("out"), strokeWidth: 1.6, dash: 2 });
  const cosine = () =>
    steps(0, 360, 90).map((angle) => {
      const [[ex, ey], { dx, dy }] = [facing({ angle }), values()];
      return [angle, (dx * ex + dy * ey) / full()];
    });
  lines(wheel, () => [cosine()], { strokeColor: colour("ink"), strokeWidth: 2 });
  const words = { ...PLAIN, display: "internal", fontSize: 12, strokeColor: colour("ink"), anchorY: "middle" };
  for (const angle of steps(0, 360, 4)) wheel.create("text", [angle, -1.25, `${angle}°`], { ...words, anchorX: "middle" });
  for (const sign of [-1, 0, 1]) {
    wheel.create("text", [-6, sign, () => `${sign * full()}`.replace("-", "−")], { ...words, anchorX: "right" });
  }
  for (const sign of [-1, 1]) {
    const place = [366, () => (sign * values().length) / full(), sign > 0 ? "|∇f|" : "−|∇f|"];
    wheel.create("text", place, { ...words, anchorX: "left", strokeColor: colour("out") });
  }
  const now = [() => state.angle, () => values().slope / full()];
  wheel.create("point", now, { ...PLAIN, size: 5, strokeWidth: 0, fillColor: colour("in") });

  /* ---- What moves it ---- */
  function set(change) {
    state = { ...state, ...change };
    [state.x, state.y] = [within(state.x, -LIMIT, LIMIT), within(state.y, -LIMIT, LIMIT)];
    state.angle = ((state.angle % 360) + 360) % 360;
    draw();
  }
  function byHand(change) {
    stopTurning();
    set(change);
  }
  const current = () => ({ ...state });
  const bearing = (dx, dy) => Math.atan2(dy, dx) / radians(1);
  const walk = (from, dx, dy) => byHand({ x: from.x + dx, y: from.y + dy });
  const turn = (from, dx, dy) => byHand({ angle: bearing(tip(from)[0] + dx - from.x, tip(from)[1] + dy - from.y) });
  const turnByKey = (from, right, up, fine) => byHand({ angle: from.angle + (fine ? 1 : 5) * (up - right) });
  const hiker = handle(board, at, current, walk);
  const compass = handle(board, [() => tip()[0], () => tip()[1]], current, turn, turnByKey);

  function turnUphill() {
    stopTurning();
    const { dx, dy, length } = values();
    if (length === 0) return;
    const [from, to] = [state.angle, bearing(dx, dy)];
    const way = ((((to - from + 180) % 360) + 360) % 360) - 180; // the shorter way round
    stopTurning = animate(1500, (t) => set({ angle: t < 1 ? from + way * t : to }));
  }

  const names = Object.fromEntries(Object.entries(SURFACES).map(([key, { name }]) => [key, name]));
  const chosen = select(panel, "Surface", names, (surface) => byHand({ surface }));
  const show = readouts(panel, [
    "Height f", "Slope along the direction", "Length of the gradient", "Angle between (°)", "Slope ÷ length",
  ], [1, 2]);
  button(panel, "Turn uphill", turnUphill);
  const hint = "Drag the hiker or the tip of the direction; or move them with the arrow keys, with Shift in small steps.";
  legend(panel, { in: "direction", out: "gradient" }, `${hint} Stronger contours are higher.`);

  let drawn = null;
  function draw() {
    const { height, slope, length, angle } = values();
    chosen.value = state.surface;
    const [x, y, direction] = [state.x.toFixed(2), state.y.toFixed(2), state.angle.toFixed(0)];
    hiker.describe(`Hiker at x = ${x}, y = ${y}; move her with the arrow keys`);
    compass.describe(`Direction, ${direction} degrees counter-clockwise from east; turn it with the arrow keys`);
    show([height, slope, length, angle, slope / length]);
    if (drawn === state.surface) board.update();
    else board.fullUpdate();
    drawn = state.surface;
    wheel.update();
  }
  draw();
  return { set, values };
};
