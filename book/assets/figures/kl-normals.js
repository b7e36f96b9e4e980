/* Two normal densities, P and Q; below, the integrands whose areas are KL(P‖Q) and KL(Q‖P). */
courseKit.builders["kl-normals"] = (stage) => {
  "use strict";
  const {
    PLAIN, colour, element, within, steps, integral, makeBoard, titled, lines, handle, select, button, readouts, legend,
  } = courseKit;
  const [LIMIT, NARROWEST, WIDEST] = [3, 0.2, 2]; // of the means; of the widths
  const EDGE = 7.5; // of what is drawn

  /* An integrand from p, q and log = log(p/q).  Both kinds have the same integral, as p and q have. */
  const PAIRS = {
    gap: { name: "gaps, such as p log(p/q) − p + q", integrand: (p, q, log) => p * log - p + q },
    textbook: { name: "textbook, such as p log(p/q)", integrand: (p, q, log) => p * log },
  };
  let state = { pair: "gap", loc0: -0.6, scale0: 0.6, loc1: 0.5, scale1: 1.1 }; // as in the still picture

  const P = () => ({ loc: state.loc0, scale: state.scale0 });
  const Q = () => ({ loc: state.loc1, scale: state.scale1 });
  const peak = ({ scale }) => 1 / (scale * Math.sqrt(2 * Math.PI));
  const logDensity = ({ loc, scale }, x) => Math.log(peak({ scale })) - ((x - loc) / scale) ** 2 / 2;
  const density = (normal, x) => Math.exp(logDensity(normal, x));

  /* t − log(1 + t) without cancellation, as in companion/kl.py. */
  function gap(t) {
    if (t <= -0.5 || t >= 1) return t - Math.log1p(t);
    const s = t / (2 + t);
    let tail = 0;
    for (let k = 16; k >= 0; k--) tail = tail * s * s + 1 / (2 * k + 3);
    return s * t - 2 * s ** 3 * tail;
  }
  function kl(p, q) {
    const [t, delta] = [(p.scale - q.scale) / q.scale, (p.loc - q.loc) / q.scale];
    return (t * t + delta * delta) / 2 + gap(t);
  }

  /* Where the densities cross: the roots of log(p/q) = 0, a x² + b x + c = 0, of which one may be infinite. */
  function crossings(p, q) {
    const [u, v] = [p.scale ** -2, q.scale ** -2];
    const [a, b] = [v - u, 2 * (u * p.loc - v * q.loc)];
    const c = v * q.loc ** 2 - u * p.loc ** 2 + 2 * Math.log(q.scale / p.scale);
    const sum = b + (b < 0 ? -1 : 1) * Math.sqrt(Math.max(0, b * b - 4 * a * c));
    return [-sum / (2 * a), (-2 * c) / sum];
  }

  /* The integral over all x of a function that is smooth except where the densities cross. */
  function total(f) {
    const [p, q] = [P(), Q()];
    const from = Math.min(p.loc - 8 * p.scale, q.loc - 8 * q.scale);
    const to = Math.max(p.loc + 8 * p.scale, q.loc + 8 * q.scale);
    const bends = crossings(p, q).filter((x) => x > from && x < to);
    const marks = [...steps(from, to, 80), ...bends].sort((a, b) => a - b);
    return marks.slice(1).reduce((sum, mark, i) => sum + integral(f, marks[i], mark), 0);
  }

  function values() {
    const [p, q] = [P(), Q()];
    const { loc0, scale0, loc1, scale1 } = state;
    const toMixture = (of, other, x) => { // p log(p/m) with m = (p + q)/2, so that p/m = 2/(1 + q/p)
      const log = logDensity(other, x) - logDensity(of, x);
      return density(of, x) * (Math.LN2 - Math.max(log, 0) - Math.log1p(Math.exp(-Math.abs(log))));
    };
    const js = total((x) => toMixture(p, q, x) + toMixture(q, p, x)) / 2;
    const tv = total((x) => Math.abs(density(p, x) - density(q, x))) / 2;
    return { loc0, scale0, loc1, scale1, forward: kl(p, q), reverse: kl(q, p), js, tv };
  }

  /* ---- What is drawn, in heights from 0 to 1, with the next round number as 1 ---- */
  const ROUND = [
    0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 1.5, 2, 3, 5, 10, 15, 20, 30, 50, 100, 150, 200, 300, 500, 1000,
  ];
  const grid = steps(-EDGE, EDGE, 750);
  function curves() {
    const [p, q] = [P(), Q()];
    const { integrand } = PAIRS[state.pair];
    const along = (of, other) =>
      grid.map((x) => integrand(density(of, x), density(other, x), logDensity(of, x) - logDensity(other, x)));
    const [forward, reverse] = [along(p, q), along(q, p)];
    const needed = Math.max(...[...forward, ...reverse].map((y) => Math.max(y, -2 * y))); // half as deep as high
    const [highest, most] = [Math.max(peak(p), peak(q)), needed].map((y) => ROUND.find((round) => round >= y));
    const scaled = (list, top) => list.map((y, i) => [grid[i], y / top]);
    return {
      highest, most, forward: scaled(forward, most), reverse: scaled(reverse, most),
      p: scaled(grid.map((x) => density(p, x)), highest), q: scaled(grid.map((x) => density(q, x)), highest),
    };
  }
  let drawn = curves();

  const boards = element("div", { class: "boards" });
  const panel = element("div", { class: "panel" });
  stage.classList.add("wide", "stacked");
  stage.append(boards, panel);
  const [left, right] = [-EDGE - 2.3, EDGE + 0.2];
  const densities = titled(boards, "The densities of P and Q:");
  const board = makeBoard(densities, "Two normal densities", null, [left, 1.28, right, -0.2]);
  const title = "The integrands, whose areas are the divergences in nats; below 0, area counts as negative:";
  const below = makeBoard(titled(boards, title), "The integrands of both divergences", null, [left, 1.1, right, -0.75]);

  const words = { ...PLAIN, display: "internal", fontSize: 12, strokeColor: colour("ink") };
  function rule(on, levels, top) {
    const [low, ticks] = [levels[0], steps(-6, 6, 4)];
    const faint = { strokeColor: colour("faint"), strokeWidth: 1, needsRegularUpdate: false };
    lines(on, () => levels.map((y) => [[-EDGE, y], [EDGE, y]]), { ...faint, strokeOpacity: 0.45 });
    lines(on, () => [[[-EDGE, 0], [EDGE, 0]], ...ticks.map((x) => [[x, low], [x, low - 0.03]])], faint);
    for (const x of ticks) {
      on.create("text", [x, low - 0.05, `${x}`.replace("-", "−")], { ...words, anchorX: "middle", anchorY: "top" });
    }
    for (const y of levels) {
      const text = () => `${y * top()}`.replace("-", "−");
      on.create("text", [-EDGE - 0.15, y, text], { ...words, anchorX: "right", anchorY: "middle" });
    }
  }
  function area(on, name, of) {
    const closed = () => [[[-EDGE, 0], ...of(), [EDGE, 0]]];
    lines(on, closed, { strokeColor: "none", fillColor: colour(name), fillOpacity: 0.16 });
    lines(on, () => [of()], { strokeColor: colour(name), strokeWidth: 2.2, dash: name === "out" ? 2 : 0 });
  }
  rule(board, [0, 0.5, 1], () => drawn.highest);
  rule(below, [-0.5, 0, 0.5, 1], () => drawn.most);
  area(board, "in", () => drawn.p);
  area(board, "out", () => drawn.q);
  area(below, "in", () => drawn.forward);
  area(below, "out", () => drawn.reverse);

  /* ---- What moves it ---- */
  function set(change) {
    state = { ...state, ...change };
    for (const loc of ["loc0", "loc1"]) state[loc] = within(state[loc], -LIMIT, LIMIT);
    for (const scale of ["scale0", "scale1"]) state[scale] = within(state[scale], NARROWEST, WIDEST);
    draw();
  }
  const current = () => ({ ...state });
  const height = (normal, widths) => (peak(normal) / drawn.highest) * Math.exp(-widths * widths / 2);

  /* A handle for one number of a density, `widths` to the right of its mean.  It moves sideways; the key up does what
     the key right does. */
  function sideways(name, normal, key, widths) {
    const move = (from, dx) => set({ [key]: from[key] + dx });
    const press = (from, right, up, fine) => move(from, (fine ? 0.01 : 0.1) * (right + up));
    const at = [() => normal().loc + widths * normal().scale, () => height(normal(), widths)];
    return handle(board, at, current, move, press, name);
  }

  const handles = [["in", P, "right", -12], ["out", Q, "left", 12]].flatMap(([name, normal, anchorX, aside], i) => {
    const stem = () => [[normal().loc, 0], [normal().loc, height(normal(), 0)]];
    const arm = () => [normal().loc, normal().loc + normal().scale].map((x) => [x, height(normal(), 1)]);
    lines(board, () => [stem(), arm()], { strokeColor: colour(name), strokeWidth: 1.2, dash: 2 });
    const beside = [() => normal().loc + aside / board.unitX, () => height(normal(), 0) + 12 / board.unitY, "PQ"[i]];
    board.create("text", beside, { ...words, fontSize: 15, strokeColor: colour(name), anchorX, anchorY: "bottom" });
    return [sideways(name, normal, `loc${i}`, 0), sideways(name, normal, `scale${i}`, 1)];
  });

  const controls = element("div", { class: "panel" });
  panel.append(controls);
  const names = Object.fromEntries(Object.entries(PAIRS).map(([key, { name }]) => [key, name]));
  const chosen = select(controls, "Integrands", names, (pair) => set({ pair }));
  const settings = ["Mean of P", "Width of P", "Mean of Q", "Width of Q"];
  const results = ["KL(P‖Q)", "KL(Q‖P)", "Jensen–Shannon divergence", "Total variation"];
  const show = readouts(panel, [...settings, ...results], [4, 5]);
  button(controls, "Swap P and Q", () => {
    const { loc0, scale0, loc1, scale1 } = state;
    set({ loc0: loc1, scale0: scale1, loc1: loc0, scale1: scale0 });
  });
  const hint = "Drag a peak to move it, the dot on its right to change the width; or use the arrow keys,";
  legend(controls, { in: "P and KL(P‖Q)", out: "Q and KL(Q‖P)" }, `${hint} with Shift in small steps.`);

  function draw() {
    const numbers = Object.values(values());
    drawn = curves();
    chosen.value = state.pair;
    settings.forEach((name, i) => handles[i].describe(`${name}, ${numbers[i].toFixed(2)}; move it with the arrow keys`));
    show(numbers);
    board.update();
    below.update();
  }
  for (const on of [board, below]) on.fullUpdate(); // once: the lines of the grids stay
  draw();
  return { set, values };
};
