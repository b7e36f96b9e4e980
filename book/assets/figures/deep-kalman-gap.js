/* A random walk of two steps, seen with noise: log p(x), the ELBO of a normal q(z₁), and overshooting. */
courseKit.builders["deep-kalman-gap"] = (stage) => {
  "use strict";
  const {
    PLAIN, colour, element, within, steps, makeBoard, titled, lines, handle, select, button, readouts, legend,
  } = courseKit;
  const LIMIT = 10; // of what is seen
  const BOUNDS = { k: [0, 1], g: [-0.2, 0.6], s: [0.2, 1.5] };
  const KINDS = { // of q(z₁) = N(k x₁ + g x₂, s²); a filter does not know x₂ yet
    filter: { k: 0.5, g: 0, s: Math.sqrt(0.5) },
    smoother: { k: 0.4, g: 0.2, s: Math.sqrt(0.4) },
    own: {},
  };
  const [NEAR, FAR] = [{ x1: 1, x2: 0.5 }, { x1: 10, x2: -10 }];
  let state = { kind: "filter", ...KINDS.filter, ...NEAR }; // as in the still picture

  const PRIOR = { loc: 0, variance: 1 };
  const mine = () => ({ loc: state.k * state.x1 + state.g * state.x2, variance: state.s ** 2 });
  const exact = () => ({ loc: 0.4 * state.x1 + 0.2 * state.x2, variance: 0.4 }); // p(z₁ | x₁, x₂)
  const peak = ({ variance }) => 1 / Math.sqrt(2 * Math.PI * variance);
  const density = (normal, z) => peak(normal) * Math.exp(-((z - normal.loc) ** 2) / (2 * normal.variance));

  /* KL(N(·, a) ‖ N(·, b)), where `square` is the mean square of what lies between their means. */
  const kl = (square, a, b) => (square / b + a / b - 1 - Math.log(a / b)) / 2;
  /* The mean of log N(x; z, 1), where `square` is that of x − z. */
  const seen = (square) => -(Math.log(2 * Math.PI) + square) / 2;

  /* z₁ ~ N(0, 1), z₂ ~ N(z₁, 1), xₜ ~ N(zₜ, 1); q(z₂ | z₁) = N((z₁ + x₂)/2, ½), which is exact. */
  function values() {
    const { k, g, s, x1, x2 } = state;
    const { loc: m, variance: v } = mine();
    const logP = -Math.log(2 * Math.PI) - Math.log(5) / 2 - (3 * x1 ** 2 - 2 * x1 * x2 + 2 * x2 ** 2) / 10;
    const reconstruction = seen((x1 - m) ** 2 + v) + seen(((x2 - m) ** 2 + v) / 4 + 1 / 2);
    const first = kl(m ** 2, v, 1); // KL(q(z₁) ‖ p(z₁))
    const second = kl(((x2 - m) ** 2 + v) / 4, 1 / 2, 1); // the mean of KL(q(z₂ | z₁) ‖ p(z₂ | z₁))
    const over = kl(((x2 + m) ** 2 + v) / 4 + 1, 1 / 2, 1); // the same with a state of the prior in place of z₁
    const elbo = reconstruction - first - second;
    const { loc, variance } = exact();
    return {
      k, g, s, x1, x2, logP, elbo, gap: logP - elbo, kl: kl((m - loc) ** 2, v, variance),
      overshooting: reconstruction - first - (second + over) / 2,
    };
  }

  /* ---- What is drawn: widths and heights from 0 to 1, with round numbers at both ends ---- */
  const TOPS = [0.8, 1.2, 1.6, 2];
  const MARKS = 8; // beside an axis, at the most
  const shares = steps(0, 1, 400);
  function frame() {
    const [q, p] = [mine(), exact()];
    const [low, high] = [-1, 1].map((side) => {
      const ends = [q, p, PRIOR].map(({ loc, variance }) => side * loc + 3 * Math.sqrt(variance));
      return side * Math.max(...ends);
    });
    const every = [1, 2, 4].find((distance) => Math.ceil(high / distance) - Math.floor(low / distance) < MARKS);
    const [from, to] = [every * Math.floor(low / every), every * Math.ceil(high / every)];
    const highest = Math.max(...[q, p, PRIOR].map(peak));
    return { from, to, every, top: TOPS.find((top) => top >= highest - 1e-9) };
  }
  let shown = frame();
  const across = (z) => (z - shown.from) / (shown.to - shown.from);
  const curve = (normal) =>
    shares.map((u) => [u, density(normal, shown.from + u * (shown.to - shown.from)) / shown.top]);

  const boards = element("div", { class: "boards", style: "grid-template-columns: minmax(0, 1fr) minmax(0, 1.8fr)" });
  const panel = element("div", { class: "panel" });
  stage.classList.add("wide");
  stage.append(boards, panel);
  function flat(title, label, plot) {
    const board = makeBoard(titled(boards, title), label, null, plot);
    Object.assign(board.containerObj.style, { aspectRatio: "auto", height: "15rem" }); // side by side, and equally high
    return board;
  }
  const data = flat("What is seen:", "The observations x₁ and x₂", [-0.3, 12.5, 2.6, -18]);
  const board = flat("Densities of z₁:", "Three densities of z₁", [-0.12, 1.08, 1.04, -0.16]);

  const words = { ...PLAIN, display: "internal", fontSize: 12, strokeColor: colour("ink") };
  const [faint, still] = [{ strokeColor: colour("faint"), strokeWidth: 1 }, { needsRegularUpdate: false }];
  const written = (number, digits = 2) => `${Number(number.toFixed(digits))}`.replace("-", "−");
  function rule(on, [left, right], levels, number) {
    lines(on, () => levels.map((y) => [[left, y], [right, y]]), { ...faint, ...still, strokeOpacity: 0.45 });
    for (const y of levels) {
      const at = [() => left - 5 / on.unitX, y, () => written(number(y))];
      on.create("text", at, { ...words, anchorX: "right", anchorY: "middle" });
    }
  }
  const below = (on, at) => on.create("text", at, { ...words, anchorX: "middle", anchorY: "top" });

  rule(data, [0.45, 2.5], steps(-LIMIT, LIMIT, 4), (y) => y);
  for (const t of [1, 2]) {
    below(data, [t, -12.2, `x${"₁₂"[t - 1]}`]);
    below(data, [t, -14.8, () => written(state[`x${t}`])]);
  }

  rule(board, [0, 1], [0, 0.5, 1], (y) => y * shown.top);
  const marks = () => steps(shown.from, shown.to, (shown.to - shown.from) / shown.every);
  lines(board, () => marks().map((z) => [[across(z), 0], [across(z), -0.03]]), faint);
  for (const i of steps(0, MARKS - 1, MARKS - 1)) {
    below(board, [() => across(marks()[i] ?? 0), -0.05, () => (i < marks().length ? written(marks()[i]) : "")]);
  }
  lines(board, () => [curve(PRIOR)], { ...faint, strokeWidth: 1.6 });
  lines(board, () => [[[0, 0], ...curve(mine()), [1, 0]]], {
    strokeColor: "none", fillColor: colour("out"), fillOpacity: 0.16,
  });
  lines(board, () => [curve(mine())], { strokeColor: colour("out"), strokeWidth: 2.2 });
  lines(board, () => [curve(exact())], { strokeColor: colour("in"), strokeWidth: 2.2, dash: 2 });

  /* ---- What moves it ---- */
  function set(change) {
    state = { ...state, ...change };
    Object.assign(state, KINDS[state.kind]);
    for (const x of ["x1", "x2"]) state[x] = within(state[x], -LIMIT, LIMIT);
    for (const [name, bounds] of Object.entries(BOUNDS)) state[name] = within(state[name], ...bounds);
    shown = frame();
    draw();
  }
  const rounded = (value) => Math.round(100 * value) / 100; // a hand sets two decimals, which are all shown

  /* A dot for what is seen at a time, which moves up and down; the key right does what the key up does. */
  const dots = [1, 2].map((t) => {
    const name = `x${t}`;
    const move = (start, dx, dy) => set({ [name]: rounded(start[name] + dy) });
    const press = (start, right, up, fine) => move(start, 0, (fine ? 0.1 : 0.5) * (right + up));
    return handle(data, [t, () => state[name]], () => ({ ...state }), move, press);
  });

  const controls = element("div", { class: "panel" });
  const results = element("div", { class: "panel" });
  panel.append(controls, results);
  const names = {
    filter: "filter: k = ½, g = 0, s = √½", smoother: "smoother: k = 0.4, g = 0.2, s = √0.4", own: "your own",
  };
  const choice = select(controls, "q(z₁) = N(k x₁ + g x₂, s²)", names, (kind) => set({ kind }));

  function slider(name, text) {
    const [min, max] = BOUNDS[name];
    const input = element("input", { type: "range", min, max, step: 0.01 });
    const number = element("span", { "aria-hidden": "true", style: "min-width: 3.6em; text-align: right" });
    const row = element("span", { class: "controls", style: "margin-inline: 0; max-width: none" }, input, number);
    const slide = (value) => set({ kind: "own", [name]: rounded(value) });
    input.addEventListener("input", () => slide(input.valueAsNumber));
    input.addEventListener("keydown", (event) => {
      const sign = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!sign) return;
      event.preventDefault(); // or the browser moves it too
      slide(state[name] + sign * (event.shiftKey ? 0.01 : 0.05));
    });
    controls.append(element("label", {}, text, row));
    return () => {
      input.value = state[name];
      number.textContent = written(state[name], 4);
      input.setAttribute("aria-valuetext", number.textContent);
    };
  }
  const sliders = [
    slider("k", "k, weight of x₁"), slider("g", "g, weight of x₂, which comes later"),
    slider("s", "s, standard deviation of q(z₁)"),
  ];

  const show = readouts(results, ["log p(x)", "ELBO", "Gap", "KL(q‖p)", "Overshooting, L = 2"]);
  const verdict = element("p", { role: "status", style: "margin: 0" });
  results.append(verdict);
  button(results, "", () => set(isFar() ? NEAR : FAR));
  const jump = results.lastChild;
  const isFar = () => state.x1 === FAR.x1 && state.x2 === FAR.x2;
  const hint = "Drag x₁ and x₂, or the sliders; or use the arrow keys, with Shift in small steps.";
  const meant = "The gap is log p(x) − ELBO; KL(q‖p) is that of the two densities of z₁.";
  const rests = "The faint curve is the prior of z₁. q(z₂ | z₁) is always exact.";
  legend(results, { out: "q(z₁)", in: "p(z₁ | x), exact, dashed" }, `${meant} ${rests} ${hint}`);

  function draw() {
    const { logP, elbo, gap, kl: divergence, overshooting } = values();
    choice.value = state.kind;
    for (const slider of sliders) slider();
    dots.forEach((dot, i) => {
      dot.describe(`Observation x${"₁₂"[i]} = ${written(state[`x${i + 1}`])}; move it with the arrow keys`);
    });
    const above = overshooting > logP;
    const bound = above ? "above log p(x): no bound" : "below log p(x) here, but need not be";
    verdict.textContent = `${divergence < 5e-5 ? "q is exact: no gap. " : ""}Overshooting is ${bound}.`;
    verdict.classList.toggle("main", above);
    jump.textContent = isFar() ? "Back to x = (1, 0.5)" : "Try x = (10, −10)";
    show([logP, elbo, gap, divergence, overshooting]);
    data.update();
    board.update();
  }
  for (const on of [data, board]) on.fullUpdate(); // once: the lines of the grids stay
  draw();
  return { set, values };
};
