/* Loaded on every page: MathJax, what the theme leaves undone for keyboards and screen readers, the interactive figures. */
(() => {
  "use strict";
  const here = new URL(".", document.currentScript.src);

  function load(path) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = new URL(path, here);
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${path} does not load`));
      document.head.append(script);
    });
  }

  /* The size gives formulas the x-height of the text; the menu would load files that are not there. */
  window.MathJax = {
    options: { enableMenu: false, processHtmlClass: "math" },
    chtml: { matchFontHeight: false, scale: 1.08 },
    startup: { pageReady: () => window.MathJax.startup.defaultPageReady().then(reachScrollers) },
  };
  /* Sphinx leaves MathJax out of a page whose formulas are all cell outputs. */
  if (document.querySelector(".math") && !document.querySelector("script[src*='mathjax']")) {
    load("vendor/mathjax/tex-mml-chtml.js");
  }

  /* The search would fetch each page it found for an excerpt, which a browser forbids on a disk. */
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  function label(selector, attributes) {
    for (const element of document.querySelectorAll(selector)) {
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    }
  }
  label("#pst-primary-sidebar", { role: "complementary", "aria-label": "Course" });
  label(".citation[role=doc-biblioentry]", { role: "listitem" });
  label(".has-children > details > summary", { "aria-label": "Sections of this chapter" });

  /* Whoever cannot use a mouse has to be able to scroll a wide formula, table or listing, and only those. */
  function reachScrollers() {
    for (const formula of document.querySelectorAll("p mjx-container, li mjx-container, td mjx-container")) {
      if (formula.clientWidth > formula.parentElement.parentElement.clientWidth) formula.classList.add("wide");
    }
    const boxes = "mjx-container[display], mjx-container.wide, pre, .text_html, .pst-scrollable-table-container";
    for (const box of document.querySelectorAll(boxes)) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }
  for (const event of ["load", "resize"]) window.addEventListener(event, reachScrollers);

  /* Paper is white: a page in dark is printed in light. */
  const page = document.documentElement.dataset;
  let onScreen = null;
  matchMedia("print").addEventListener("change", ({ matches }) => {
    if (matches) onScreen = page.theme;
    page.theme = matches ? "light" : onScreen;
  });

  /* A figure named live-NAME shows its image until figures/NAME.js has drawn the interactive one in its place. */
  async function enliven(figures) {
    const style = document.createElement("link");
    Object.assign(style, { rel: "stylesheet", href: new URL("vendor/jsxgraph/jsxgraph.css", here) });
    document.head.prepend(style); // before course.css, which has the last word
    await load("vendor/jsxgraph/jsxgraphcore.js");
    await load("figures/common.js");
    for (const figure of figures) {
      const name = figure.id.slice("live-".length);
      await load(`figures/${name}.js`);
      window.courseKit.mount(name, figure);
    }
  }
  const figures = document.querySelectorAll("figure[id^='live-']");
  if (figures.length) {
    enliven(figures).catch((error) => {
      console.warn(error);
      for (const figure of figures) figure.dataset.live ??= "off"; // its image stays
    });
  }
})();
