// A labelled input for each control of a model, made from what its document says of the port.

/** The controls of the session itself, in the manner of a model's. */
export const DRY = { name: "dry", default: 0, minimum: 0, maximum: 1, unit: "", doc: "fraction of the untouched sound in the result" };

/** The control of a line, of what a codec has made. */
export const LOSS = {
  name: "loss", label: "Packets lost", default: 0, minimum: 0, maximum: 0.5, scale: 100, unit: "%",
  doc: "each of one frame, and by itself; the decoder conceals them",
};

/** A name as it is shown. */
export const title = (name) => name.replaceAll("_", " ").replace(/^./, (c) => c.toUpperCase());

/** An element with properties and children. */
export const element = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

/** Fill `box` with inputs for `ports`, at `values` (a Map) where given; `onchange(port, value)` on each change.
 * A port with bounds is a slider, another a number, a port of several values a list of numbers. `label` in place of
 * its name, and `scale` of what is shown, are the page's. */
export function showControls(box, ports, values, onchange) {
  box.replaceChildren(...ports.map((port, n) => {
    const { name, label, minimum, maximum, unit = "", doc = "", dtype = "float32", scale = 1 } = port;
    const start = values.get(port) ?? port.default ?? 0;
    const many = Array.isArray(start) || (port.channels ?? 1) > 1;
    const bounded = !many && typeof minimum === "number" && typeof maximum === "number";
    const id = `control-${n}`;
    const input = element("input", { id, type: bounded ? "range" : many ? "text" : "number", name });
    if (bounded) Object.assign(input, { min: minimum, max: maximum });
    if (!many) input.step = dtype === "int64" ? 1 : bounded ? (maximum - minimum) / 100 : "any";
    input.value = [start].flat().join(" ");
    const shown = element("output", { htmlFor: id });
    const show = () => {
      shown.textContent = bounded ? `${Number((input.value * scale).toFixed(2))} ${unit}`.trim() : unit;
      if (bounded) input.setAttribute("aria-valuetext", shown.textContent);
    };
    input.addEventListener("input", () => {
      show();
      const numbers = input.value.trim().split(/[\s,]+/).map(Number);
      if (input.value.trim() && numbers.every(Number.isFinite)) onchange(port, many ? numbers : numbers[0]);
    });
    show();
    const parts = [element("label", { htmlFor: id, textContent: label ?? title(name) }), shown, input];
    if (doc) {
      parts.push(element("p", { id: `${id}-doc`, className: "note", textContent: doc }));
      input.setAttribute("aria-describedby", `${id}-doc`);
    }
    return element("div", { className: "control" }, ...parts);
  }));
}
