"use strict";
(() => {
  const data = JSON.parse(document.getElementById("cells").textContent);
  const box = document.getElementById("explorer");
  const canvas = box.querySelector("canvas"), told = box.querySelector("output"), key = box.querySelector("ul");
  const which = box.querySelector("[name=place]"), by = box.querySelector("[name=color]");
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const shorts = (text) => new Uint16Array(bytes(text).buffer);
  const places = new Map(Object.entries(data.places).map(([name, text]) => [name, shorts(text)]));
  const colors = new Map(Object.entries(data.colors));
  const number = (value) => Number(value.toPrecision(3)).toString();
  let x = [], y = [], code = [], color = null, only = null;

  const shade = (step) => {  // light gray to dark blue; 255: no value
    if (step === 255) return "#c8c8c8";
    const t = step / 254, mix = (a, b) => Math.round(a + (b - a) * t);
    return `rgb(${mix(225, 8)},${mix(230, 48)},${mix(235, 107)})`;
  };
  const of = (cell) => (color.levels ? color.colors[code[cell]] : shade(code[cell]));
  const value = (cell) => {
    if (color.levels) return color.levels[code[cell]];
    return code[cell] === 255 ? "no value" : number(color.low + (color.high - color.low) * code[cell] / 254);
  };

  const place = () => {
    const ratio = window.devicePixelRatio || 1, size = canvas.clientWidth, pad = 8;
    canvas.width = canvas.height = size * ratio;
    const at = places.get(which.value), scale = (size - 2 * pad) / 65535;
    x = data.cells.map((_, i) => pad + at[2 * i] * scale);
    y = data.cells.map((_, i) => size - pad - at[2 * i + 1] * scale);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const radius = Math.max(1, Math.min(3, 150 / Math.sqrt(data.cells.length)));
    const order = data.cells.map((_, i) => i).sort((a, b) => (color.levels ? (a * 7919) % 9973 - (b * 7919) % 9973 : code[a] % 255 - code[b] % 255));
    for (const i of order) {
      pen.fillStyle = only === null || code[i] === only ? of(i) : "#eceff2";
      pen.beginPath();
      pen.arc(x[i], y[i], radius, 0, 2 * Math.PI);
      pen.fill();
    }
  };

  const legend = () => {
    const rows = color.levels ? color.levels.map((name, i) => [name, color.colors[i], i])
      : [[number(color.low), shade(0), null], [number(color.high), shade(254), null]];
    key.replaceChildren(...rows.map(([name, fill, i]) => {
      const item = document.createElement("li"), dot = document.createElement("span");
      dot.className = "dot";
      dot.style.background = fill;
      item.append(dot, name);
      if (i !== null) {
        item.tabIndex = 0;
        item.addEventListener("click", () => { only = only === i ? null : i; place(); });
        item.addEventListener("keydown", (event) => { if (event.key === "Enter") item.click(); });
      }
      return item;
    }));
  };

  const recolor = () => {
    color = colors.get(by.value);
    code = color.levels ? shorts(color.code) : bytes(color.shade);
    only = null;
    legend();
    place();
  };

  canvas.addEventListener("pointermove", (event) => {
    const edge = canvas.getBoundingClientRect(), px = event.clientX - edge.left, py = event.clientY - edge.top;
    let best = -1, least = 100;
    for (let i = 0; i < x.length; i++) {
      const far = (x[i] - px) ** 2 + (y[i] - py) ** 2;
      if (far < least) { least = far; best = i; }
    }
    told.textContent = best < 0 ? "" : `${data.cells[best]}: ${by.value} ${value(best)}`;
  });
  canvas.addEventListener("pointerleave", () => { told.textContent = ""; });
  which.addEventListener("change", place);
  by.addEventListener("change", recolor);
  window.addEventListener("resize", place);
  recolor();
})();
