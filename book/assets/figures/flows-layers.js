/* Inside the trained flow of the ring: what its layers do to a sheet of rubber with grains on it. */
courseKit.builders["flows-layers"] = (stage) => {
  "use strict";
  const {
    PLAIN, colour, element, within, steps, makeBoard, titled, lines, handle, button, readouts, legend, animate,
  } = courseKit;
  const [LIMIT, WIDE] = [2.5, 4]; // of the sheet and of the grain in hand; of the boards
  const BEND = 0.03; // how far from its chord a thread may be drawn, less than a pixel and a half
  const [LAYERS, HIDDEN] = [8, 64]; // of the flow; numbers in a hidden layer of its networks
  let state = { layers: LAYERS, z1: 0.6, z2: 0.8 };

  /* ---- The flow, from float32 weights in base64, as book/train.py writes them ---- */
  const floats = (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return Float64Array.from(new Float32Array(bytes.buffer));
  };
  const { weights, grains, bound } = window.flowsLayers; // the bound is that of a log-scale
  const all = floats(weights);
  let read = 0;
  const matrix = (rows, columns) => Array.from({ length: rows }, () => all.subarray(read, (read += columns)));
  const linear = (outputs, inputs) => ({ weight: matrix(outputs, inputs), bias: matrix(1, outputs)[0] });
  const networks = steps(1, LAYERS, LAYERS - 1).map(() => [linear(HIDDEN, 1), linear(HIDDEN, HIDDEN), linear(2, HIDDEN)]);

  function apply({ weight, bias }, input) {
    return weight.map((row, i) => {
      let sum = bias[i];
      for (let j = 0; j < row.length; j++) sum += row[j] * input[j];
      return sum;
    });
  }
  const relu = (numbers) => numbers.map((number) => Math.max(0, number));

  /* Undo the layer that the flow applies as its number i, from 0, or a share of it: then each point goes that share of
     its straight way.  The moved number m goes to (m − t)/exp(s), and s, t depend on the kept one only; so the share,
     too, is a map that can be undone, and its log|det| is the logarithm of ∂m′/∂m. */
  function undo(i, point, share = 1) {
    const moved = i % 2 === 1 ? 0 : 1; // layers take turns
    const [first, second, last] = networks[i];
    const [raw, t] = apply(last, relu(apply(second, relu(apply(first, [point[1 - moved]])))));
    const scale = Math.exp(-bound * Math.tanh(raw / bound));
    const to = [...point];
    to[moved] = (1 - share) * point[moved] + share * (point[moved] - t) * scale;
    return [to, Math.log(1 - share + share * scale)];
  }

  /* The places of a latent point after 0, 1, 2 … layers, the last one undone in part, and the sum of log|det|. */
  function journey(z, layers) {
    const way = [z];
    let logDet = 0;
    for (let k = 0; k < layers; k++) {
      const [to, more] = undo(LAYERS - 1 - k, way[k], Math.min(1, layers - k));
      way.push(to);
      logDet += more;
    }
    return { way, logDet };
  }

  function values() {
    const { layers, z1, z2 } = state;
    const { way, logDet } = journey([z1, z2], layers);
    const [x1, x2] = way.at(-1);
    const latent = -(z1 * z1 + z2 * z2) / 2 - Math.log(2 * Math.PI);
    return { layers, z1, z2, x1, x2, latent, logDet, logProb: latent - logDet };
  }

  /* ---- What is drawn ---- */
  const sheet = steps(-LIMIT, LIMIT, 10).flatMap((a) => {
    const along = steps(-LIMIT, LIMIT, 40);
    return [along.map((b) => [a, b]), along.map((b) => [b, a])];
  });
  const heap = floats(grains);
  const sand = Array.from({ length: heap.length / 2 }, (_, i) => [heap[2 * i], heap[2 * i + 1]]);
  const dots = (places) => places.map((place) => [place, place]); // lines without length, whose ends are round

  /* The ways of points between two others, as many as it takes for a line through them to look right at all times. */
  const stages = (z) => journey(z, LAYERS).way;
  const halfway = ([x, y], [u, v]) => [(x + u) / 2, (y + v) / 2];
  function between(a, b) {
    const middle = stages(halfway(a[0], b[0]));
    const off = middle.map(([x, y], k) => {
      const [u, v] = halfway(a[k], b[k]);
      return Math.hypot(x - u, y - v);
    });
    return Math.max(...off) > BEND ? [...between(a, middle), middle, ...between(middle, b)] : [middle];
  }
  const thread = (ways) => ways.flatMap((to, i) => (i === 0 ? [to] : [...between(ways[i - 1], to), to]));

  /* The networks are asked once.  From layer to layer all points are on their straight way. */
  const [sheetWays, sandWays] = [sheet.map((line) => thread(line.map(stages))), sand.map(stages)];
  function now(way) {
    const { layers } = state;
    const [before, after] = [way[Math.floor(layers)], way[Math.ceil(layers)]];
    return before.map((x, k) => x + (layers % 1) * (after[k] - x));
  }

  const boards = element("div", { class: "boards" });
  const panel = element("div", { class: "panel" });
  stage.classList.add("wide");
  stage.append(boards, panel);
  const latent = makeBoard(titled(boards, "The heap, none undone:"), "The latent sheet", WIDE);
  const place = titled(boards, "");
  const title = place.firstChild;
  const board = makeBoard(place, "The sheet after some layers", WIDE);

  const rubber = { strokeColor: colour("in"), strokeWidth: 1, strokeOpacity: 0.6 };
  const sprinkled = { strokeColor: colour("out"), strokeWidth: 3.4 };
  const still = { needsRegularUpdate: false };
  lines(latent, () => sheet, { ...rubber, ...still });
  lines(latent, () => dots(sand), { ...sprinkled, ...still });
  lines(board, () => sheetWays.map((line) => line.map(now)), rubber);
  lines(board, () => dots(sandWays.map(now)), sprinkled);
  const grain = () => journey([state.z1, state.z2], state.layers).way;
  lines(board, () => [grain()], { strokeColor: colour("ink"), strokeWidth: 1.6 });
  board.create("point", [() => grain().at(-1)[0], () => grain().at(-1)[1]], {
    ...PLAIN, strokeWidth: 0, size: 4.5, fillColor: colour("ink"),
  });

  /* ---- What moves it ---- */
  let stop = () => {};
  let aim = null; // where the button is leading
  function set(change) {
    state = { ...state, ...change };
    state.layers = within(state.layers, 0, LAYERS);
    for (const z of ["z1", "z2"]) state[z] = within(state[z], -LIMIT, LIMIT);
    draw();
  }
  function slide(layers) {
    stop();
    aim = null;
    set({ layers });
  }
  function next() {
    stop();
    const from = aim ?? state.layers; // a hurried hand need not wait
    const to = from === LAYERS ? 0 : Math.floor(from) + 1;
    aim = to;
    stop = animate(to === 0 ? 2000 : 900 * (to - from), (t) => {
      if (t === 1) aim = null;
      set({ layers: (1 - t) * from + t * to });
    });
  }
  const shift = (from, dx, dy) => set({ z1: from.z1 + dx, z2: from.z2 + dy });
  const inHand = handle(latent, [() => state.z1, () => state.z2], () => ({ ...state }), shift);

  const controls = element("div", { class: "panel" });
  panel.append(controls);
  const marks = element("datalist", { id: "flows-layers-marks" });
  marks.append(...steps(0, LAYERS, LAYERS).map((value) => element("option", { value })));
  const slider = element("input", { type: "range", min: 0, max: LAYERS, step: 0.05, list: marks.id });
  const row = element("span", { class: "controls", style: "margin-inline: 0; max-width: none" }, slider);
  slider.addEventListener("input", () => slide(slider.valueAsNumber));
  slider.addEventListener("keydown", (event) => {
    const sign = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!sign) return;
    event.preventDefault(); // or the browser moves it too
    const { layers } = state;
    if (event.shiftKey) slide(Math.round(20 * layers + sign) / 20);
    else slide(sign > 0 ? Math.floor(layers) + 1 : Math.ceil(layers) - 1);
  });
  controls.append(element("label", {}, "Layers undone", row), marks);
  const names = ["Latent z₁", "Latent z₂", "There x₁", "There x₂", "Latent log-density at z"];
  const show = readouts(panel, [...names, "Sum of log|det J|, z → x", "Log-density at x"], [5, 6]);
  button(controls, "", next);
  const press = controls.lastChild;
  const hint = "Drag the grain on the left, or the slider; or use the arrow keys, with Shift in small steps.";
  const line = "On the right, the line from z is the way of this grain.";
  const part = "Part of a layer takes each point part of its straight way, and the numbers are those of that map.";
  legend(controls, { in: "the sheet", out: `${sand.length} grains` }, `${hint} ${line} ${part}`);

  function draw() {
    const { layers, z1, z2, x1, x2, latent: logLatent, logDet, logProb } = values();
    const count = `${Number.isInteger(layers) ? layers : layers.toFixed(2)} of ${LAYERS} layers undone`;
    title.textContent = `${count}:`;
    slider.value = layers;
    slider.setAttribute("aria-valuetext", count);
    press.textContent = (aim ?? layers) === LAYERS ? "Back to the heap" : "Undo the next layer";
    inHand.describe(`Grain at z₁ = ${z1.toFixed(2)}, z₂ = ${z2.toFixed(2)}; move it with the arrow keys`);
    show([z1, z2, x1, x2, logLatent, logDet, logProb]);
    latent.update();
    board.update();
  }
  latent.fullUpdate(); // once: sheet and grains stay
  draw();
  return { set, values };
};

/* This file counts as loaded once its weights are, which no other page needs: they get what waits for it. */
(() => {
  "use strict";
  const { currentScript: script } = document;
  const weights = document.createElement("script");
  weights.src = new URL("flows-layers-weights.js", script.src);
  [weights.onload, weights.onerror] = [script.onload, script.onerror];
  script.onload = null;
  document.head.append(weights);
})();
