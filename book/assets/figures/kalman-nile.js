/* A local-level model of the flow of the Nile: what its filter and its smoother know of the level, also in hidden years. */
courseKit.builders["kalman-nile"] = (stage) => {
  "use strict";
  const {
    PLAIN, colour, element, within, steps, makeBoard, titled, lines, handle, select, button, readouts, legend, animate,
  } = courseKit;
  const FLOWS = [ // in 10⁸ m³ a year, as in book/data/nile.csv
    1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960, 1180, 799, 958, 1140, 1100,
    1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694, 940, 833, 701, 916, 692, 1020, 1050, 969, 831, 726, 456,
    824, 702, 1120, 1100, 832, 764, 821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759, 781, 865, 845, 944, 984, 897,
    822, 1010, 771, 676, 649, 846, 812, 742, 801, 1040, 860, 874, 848, 890, 744, 749, 838, 1050, 918, 986, 797, 923, 975,
    815, 1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740,
  ];
  const [BEGIN, END] = [1871, 1970];
  const [MEAN, VARIANCE] = [1000, 1e6]; // of the first level, before anything is seen: m0 and P0
  const POWERS = { Q: [1, 5], R: [3, 5] }; // of 10, between which the variances lie
  const WIDTH = 1.645; // standard deviations on each side of a level hold 90 %
  const [BOTTOM, TOP] = [300, 1500]; // of what is drawn
  const [HIDE, SHOW] = [{ first: 1891, last: 1910 }, { first: BEGIN, last: BEGIN - 1 }]; // last = first − 1: none hidden
  let state = { known: "filter", Q: 1469, R: 15099, ...HIDE, year: 1911 }; // as in the still picture

  const years = steps(BEGIN, END, END - BEGIN);
  const isHidden = (year) => state.first <= year && year <= state.last;

  /* For every year: what is known before it, the gain K and what is known after it; and the log-likelihood. */
  function filtered() {
    const { Q, R } = state;
    let [mean, variance, logLikelihood] = [MEAN, VARIANCE, 0];
    const path = years.map((year, t) => {
      if (t > 0) variance += Q;
      const before = { expected: mean, spread: variance, gain: 0, innovation: NaN };
      if (isHidden(year)) return { ...before, mean, variance };
      const innovation = FLOWS[t] - mean;
      const gain = variance / (variance + R);
      logLikelihood -= (Math.log(2 * Math.PI * (variance + R)) + innovation ** 2 / (variance + R)) / 2;
      mean += gain * innovation;
      variance = gain * R; // = (1 − K) P, without cancellation
      return { ...before, gain, innovation, mean, variance };
    });
    return { path, logLikelihood };
  }

  /* The same with what the later years tell (Rauch, Tung and Striebel). */
  function smoothed(path) {
    const all = [...path];
    for (let t = path.length - 2; t >= 0; t--) {
      const [{ mean, variance }, next, later] = [path[t], path[t + 1], all[t + 1]];
      const G = variance / next.spread;
      all[t] = {
        ...path[t], mean: mean + G * (later.mean - next.expected),
        variance: (1 - G) ** 2 * variance + G ** 2 * (state.Q + later.variance),
      };
    }
    return all;
  }

  let level = {}; // { filter, smoother, logLikelihood }
  function compute() {
    const { path, logLikelihood } = filtered();
    level = { filter: path, smoother: smoothed(path), logLikelihood };
  }
  compute();

  const chosen = () => level[state.known];
  const other = () => level[state.known === "filter" ? "smoother" : "filter"];
  const now = () => chosen()[state.year - BEGIN];

  function values() {
    const { Q, R, first, last, year } = state;
    const { expected, innovation, gain, mean, variance } = now();
    const { logLikelihood } = level;
    return { Q, R, first, last, year, expected, innovation, gain, level: mean, scale: Math.sqrt(variance), logLikelihood };
  }

  /* ---- What is drawn ---- */
  const boards = element("div", { class: "boards" });
  const panel = element("div", { class: "panel" });
  stage.classList.add("wide", "stacked");
  stage.append(boards, panel);
  const place = titled(boards, "");
  const title = place.firstChild;
  const board = makeBoard(place, "The flow of the Nile, year by year, and its level", null, [1858, 1530, 1973, 165]);

  const words = { ...PLAIN, display: "internal", fontSize: 12, strokeColor: colour("ink") };
  const [edges, heights] = [[BEGIN - 0.5, END + 0.5], steps(400, 1400, 5)];
  const faint = { strokeColor: colour("faint"), strokeWidth: 1 };
  lines(board, () => heights.map((y) => edges.map((x) => [x, y])), { ...faint, strokeOpacity: 0.45, needsRegularUpdate: false });
  const ticks = steps(1880, 1960, 4);
  const axis = () => [edges.map((x) => [x, BOTTOM]), ...ticks.map((x) => [[x, BOTTOM], [x, BOTTOM - 25]])];
  lines(board, axis, { ...faint, needsRegularUpdate: false });
  for (const x of ticks) board.create("text", [x, BOTTOM - 40, `${x}`], { ...words, anchorX: "middle", anchorY: "top" });
  for (const y of heights) {
    board.create("text", [edges[0] - 1, y, `${y}`], { ...words, anchorX: "right", anchorY: "middle" });
  }

  const [from, to] = [() => state.first - 0.5, () => state.last + 0.5]; // of the hidden years
  const side = (x) => [[x, BOTTOM], [x, TOP]];
  lines(board, () => [[...side(from()), ...side(to()).reverse()]], {
    strokeColor: "none", fillColor: colour("faint"), fillOpacity: 0.2,
  });
  lines(board, () => [side(from()), side(to())], { ...faint, dash: 2 });

  /* A level keeps its colour; the chosen one has the band. */
  const tint = (known) => () => colour({ filter: "out", smoother: "in" }[known()])();
  const [mine, theirs] = [() => state.known, () => (state.known === "filter" ? "smoother" : "filter")];
  const bound = ({ mean, variance }, sign) => within(mean + sign * WIDTH * Math.sqrt(variance), BOTTOM, TOP);
  const limit = (sign) => chosen().map((known, t) => [years[t], bound(known, sign)]);
  const means = (path) => path.map(({ mean }, t) => [years[t], mean]);
  lines(board, () => [[...limit(1), ...limit(-1).reverse()]], {
    strokeColor: "none", fillColor: tint(mine), fillOpacity: 0.2,
  });
  lines(board, () => [means(other())], { strokeColor: tint(theirs), strokeWidth: 1.4, dash: 2 });
  lines(board, () => [means(chosen())], { strokeColor: tint(mine), strokeWidth: 2.2 });

  /* The flows: the ones that the chosen level rests on, the later ones, and the hidden ones as rings. */
  const isLater = (year) => state.known === "filter" && year > state.year;
  const dots = (which) => () =>
    years.flatMap((year, t) => (which(year) ? [[[year, FLOWS[t]], [year, FLOWS[t]]]] : [])); // round ends of no line
  lines(board, dots(isHidden), { strokeColor: colour("faint"), strokeWidth: 6 });
  lines(board, dots(isHidden), { strokeColor: colour("pst-color-background"), strokeWidth: 3.4 });
  lines(board, dots((year) => !isHidden(year) && isLater(year)), {
    strokeColor: colour("ink"), strokeWidth: 4.8, strokeOpacity: 0.3,
  });
  lines(board, dots((year) => !isHidden(year) && !isLater(year)), { strokeColor: colour("ink"), strokeWidth: 4.8 });
  const interval = () => [-1, 1].map((sign) => [state.year, bound(now(), sign)]);
  lines(board, () => [interval()], { strokeColor: colour("ink"), strokeWidth: 1.6 });

  /* ---- What moves it ---- */
  let stop = () => {};
  function set(change) {
    state = { ...state, ...change };
    for (const [name, powers] of Object.entries(POWERS)) state[name] = within(state[name], ...powers.map((p) => 10 ** p));
    state.year = within(Math.round(state.year), BEGIN, END);
    state.first = within(Math.round(state.first), BEGIN, END + 1);
    state.last = within(Math.round(state.last), BEGIN - 1, END);
    if ("last" in change) state.last = Math.max(state.last, state.first - 1);
    else state.first = Math.min(state.first, state.last + 1);
    compute();
    draw();
  }
  function byHand(change) {
    stop();
    set(change);
  }

  /* A handle for a year, which moves sideways; the key up does what the key right does. */
  function sideways(name, at, tinted) {
    const move = (start, dx) => byHand({ [name]: start[name] + dx });
    const press = (start, right, up, fine) => move(start, (fine ? 1 : 5) * (right + up));
    return handle(board, at, () => ({ ...state }), move, press, tinted);
  }
  const ends = { first: sideways("first", [from, BOTTOM + 60], "faint"), last: sideways("last", [to, TOP - 60], "faint") };
  const inHand = sideways("year", [() => state.year, () => now().mean], "ink");

  /* A slider for a variance, on a logarithmic scale.  The hand sets four digits, which are all shown. */
  function logSlider(name, text) {
    const [min, max] = POWERS[name];
    const input = element("input", { type: "range", min, max, step: 0.01 });
    const number = element("span", { "aria-hidden": "true", style: "min-width: 3.6em; text-align: right" });
    const row = element("span", { class: "controls", style: "margin-inline: 0; max-width: none" }, input, number);
    const slide = (power) => byHand({ [name]: Number((10 ** power).toPrecision(4)) });
    input.addEventListener("input", () => slide(input.valueAsNumber));
    input.addEventListener("keydown", (event) => {
      const sign = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!sign) return;
      event.preventDefault(); // or the browser moves it too
      slide(Math.log10(state[name]) + sign * (event.shiftKey ? 0.01 : 0.1));
    });
    controls.append(element("label", {}, text, row));
    return () => {
      input.value = Math.log10(state[name]);
      number.textContent = `${Number(state[name].toPrecision(6))}`;
      input.setAttribute("aria-valuetext", number.textContent);
    };
  }

  const controls = element("div", { class: "panel" });
  const results = element("div", { class: "panel" });
  panel.append(controls, results);
  const KNOWN = {
    filter: "filter: then, from the years up to it", smoother: "smoother: in the end, from all years",
  };
  const choice = select(controls, "What is known of a year’s level", KNOWN, (known) => byHand({ known }));
  const sliders = [
    logSlider("Q", "Q, variance of a year’s step of the level"), logSlider("R", "R, variance of a flow about its level"),
  ];
  const show = readouts(results, [
    "Forecast", "Innovation", "Gain K", "Level", "Level’s standard deviation", "Log-likelihood of all years seen",
  ], [3, 4]);
  button(results, "", () => byHand(state.first > state.last ? HIDE : SHOW));
  const veil = results.lastChild;
  button(results, "Let the years pass", () => {
    stop();
    const start = state.year === END ? BEGIN : state.year;
    stop = animate(80 * (END - start), (t) => set({ year: start + t * (END - start) }));
  });
  const hint = "Drag the dot on the level, or an end of the hidden years; or use the arrow keys, with Shift in small steps.";
  const rests = "The level of the chosen year rests on the strong dots; rings are the flows of hidden years.";
  legend(controls, { out: "filter", in: "smoother" }, `${hint} ${rests} The 90 % band is for the level, not for the flows.`);

  function draw() {
    const { year, first, last, expected, innovation, gain, level: mean, scale, logLikelihood } = values();
    const none = first > last;
    const hidden = none ? "none" : first === last ? first : `${first}–${last}`;
    title.textContent = `Nile in 10⁸ m³; hidden: ${hidden}; chosen: ${year}.`; // one line on a phone, or the board jumps
    choice.value = state.known;
    for (const slider of sliders) slider();
    inHand.describe(`Year ${year}${isHidden(year) ? ", hidden" : ""}; move it with the arrow keys`);
    ends.first.describe(`First hidden year, ${none ? "none" : first}; move it with the arrow keys`);
    ends.last.describe(`Last hidden year, ${none ? "none" : last}; move it with the arrow keys`);
    veil.textContent = none ? `Hide ${HIDE.first}–${HIDE.last}` : "Hide no year";
    show([expected, innovation, gain, mean, scale, logLikelihood]);
    board.update();
  }
  board.fullUpdate(); // once: the lines of the grid stay
  draw();
  return { set, values };
};
