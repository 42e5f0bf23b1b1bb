// The viewer of a fusion: three volumes on one grid, each drawn by a NiiVue of its own. The canvases stand side by side,
// or one on the other: then the style sheet's opacity, clip path and mask are the blend, the reveal and the checkerboard,
// so windows and colours of each volume stay its own and comparing costs no drawing.
"use strict";
(() => {
  const about = JSON.parse(document.getElementById("about").textContent);
  const ROLES = ["reference", "second", "fused"];
  const MAPS = ["uncertainty", "check"];
  const PLANES = [
    { name: "Axial", axis: 2 },
    { name: "Coronal", axis: 1 },
    { name: "Sagittal", axis: 0 },
  ]; // in NiiVue's order
  const COLOURS = {
    gray: "grey", pet: "PET", spect: "SPECT", hot: "hot", inferno: "inferno", viridis: "viridis", bone: "bone",
    cool: "cool", red: "red", green: "green", blue: "blue",
  };
  const AMOUNTS = {
    blend: { name: "Blend", value: 50, step: 5, says: (x) => `${x} % ${titleOf(state.above)}` },
    reveal: { name: "Reveal", value: 50, step: 2, says: (x) => `${x} %` },
    checkerboard: { name: "Tiles", value: 25, step: 5, says: () => `${tileSize()} px` },
    flicker: { name: "Pace", value: 50, step: 10, says: () => `${(1000 / pause()).toFixed(1)} per second` },
  };
  const BIG_STEP = 5;
  const VIEW_3D = /\brayDir;|uniform float dX\b|uniform \w+ \w+ labelTex\b/; // rays, gradients, growing regions
  const EMPTY = "#version 300 es\nprecision highp float;\nout vec4 colour;\nvoid main() { colour = vec4(0.0); }";
  const $ = (id) => document.getElementById(id);
  const stage = $("stage");
  const panes = {};
  const first = () => ({ mode: "side", flicker: false, shown: true, below: "reference", above: "second", planes: "all", plane: 0 });
  let state = first();
  let timer = 0;

  const titleOf = (role) => about.layers[role].title;
  const stacked = () => state.flicker || state.mode !== "side";
  const compares = () => (state.flicker ? "flicker" : state.mode);
  const tileSize = () => 12 + 2 * AMOUNTS.checkerboard.value;
  const pause = () => 1000 - 6 * AMOUNTS.flicker.value; // ms; at most 2.5 changes a second, which is safe to look at

  // --- volumes ---------------------------------------------------------------------------------------------------------

  async function decode(role) {
    const letters = atob($(`layer-${role}`).textContent);
    const packed = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const buffer = await new Response(stream).arrayBuffer();
    $(`layer-${role}`).remove();
    const type = { uint8: Uint8Array, rgba: Uint8Array, int16: Int16Array }[about.layers[role].type];
    return { buffer, stored: new type(buffer, new DataView(buffer).getFloat32(108, true)) };
  }

  function windowOf(layer) {
    return layer.windows ? Object.values(layer.windows)[0] : [0, 255];
  }

  function rangeOf(layer) {
    const ranges = layer.windows ? Object.values(layer.windows) : [[0, layer.highest || 255]];
    return [Math.min(...ranges.map((x) => x[0])), Math.max(...ranges.map((x) => x[1]))];
  }

  // The range of a volume is known; NiiVue would go through all its values for a guess at a window.
  niivue.NVImage.prototype.calMinMax = function calMinMax() {
    const [low, high] = rangeOf(about.layers[this.name.split(".")[0]]);
    Object.assign(this, { cal_min: low, cal_max: high, robust_min: low, robust_max: high, global_min: low, global_max: high });
    return [low, high, low, high];
  };

  async function image(role, colormap, low, high, opacity = 1) {
    const { buffer } = panes[role] || about.layers[role];
    const made = await niivue.NVImage.loadFromUrl({ url: buffer, name: `${role}.nii`, colormap, opacity });
    return Object.assign(made, { cal_min: low, cal_max: high });
  }

  async function makePane(role) {
    performance.mark(role);
    const layer = about.layers[role];
    const box = document.createElement("div");
    box.className = "pane";
    box.dataset.role = role;
    const holder = document.createElement("div");
    holder.className = "holder";
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-label", `${layer.title}, axial, coronal and sagittal plane`);
    const caption = document.createElement("p");
    caption.className = "caption";
    holder.append(canvas);
    box.append(holder, caption);
    stage.append(box);
    const drag = niivue.DRAG_MODE;
    const nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.25, 0.8, 1, 0.8], crosshairWidthUnit: "mm",
      fontColor: [0.92, 0.75, 0.4, 1], fontMinPx: 12, fontSizeScaling: 0.1, isOrientationTextVisible: !about.picture,
      isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
      multiplanarPadPixels: 4, dragAndDropEnabled: false, logLevel: "error", viewModeHotKey: "", clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "", loadingText: "", isResizeCanvas: true,
      mouseEventConfig: {
        leftButton: { primary: drag.crosshair, withShift: drag.pan, withCtrl: drag.windowing },
        rightButton: drag.windowing, centerButton: drag.pan,
      },
      touchEventConfig: { singleTouch: drag.crosshair, doubleTouch: drag.pan },
    });
    panes[role] = { role, box, holder, canvas, caption, nv, ...(await decode(role)) };
    nv.drawScene = () => {}; // until everything is there
    leaveOut3D(canvas.getContext("webgl2", { alpha: true, antialias: false }));
    await nv.attachToCanvas(canvas, false);
    paintHere(nv, panes[role].stored);
    for (const kind of Object.keys(about.colourMaps)) nv.addColormap(kind, lookupTable(about.colourMaps[kind]));
    const [low, high] = windowOf(layer);
    nv.addVolume(await image(role, layer.colours || "gray", low, high));
    nv.onLocationChange = () => follow(role);
    canvas.tabIndex = -1;
  }

  // NiiVue compiles the programs of its 3-D view at once, most of all its time to start. That view is not shown here.
  function leaveOut3D(gl) {
    const set = gl.shaderSource.bind(gl);
    gl.shaderSource = (shader, source) => set(shader, VIEW_3D.test(source) ? EMPTY : source);
  }

  // Window and colours of a volume, painted by this program. NiiVue has the graphics card do it slice by slice, with
  // gradients for a 3-D view that is not shown here: a second of work where the processor does the graphics card's part.
  function paintHere(nv, stored) {
    const { gl } = nv;
    const prepare = nv.refreshLayers.bind(nv);
    nv.refreshLayers = (volume, layer) => {
      if (layer > 0) return prepare(volume, layer);
      gl.drawArrays = gl.texSubImage3D = () => {};
      try {
        prepare(volume, 0);
      } finally {
        delete gl.drawArrays;
        delete gl.texSubImage3D;
      }
      if (!nv.volumeTexture || nv.opts.is2DSliceShader) return;
      gl.activeTexture(gl.TEXTURE0);
      gl.bindTexture(gl.TEXTURE_3D, nv.volumeTexture);
      gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, 0, ...about.shape, gl.RGBA, gl.UNSIGNED_BYTE, paint(nv, volume, stored));
    };
  }

  function paint(nv, volume, stored) {
    const { role } = Object.values(panes).find((pane) => pane.nv === nv);
    const layer = about.layers[role];
    if (layer.type === "rgba") return stored;
    const colours = new Uint32Array(new Uint8Array(nv.colormap(volume.colormap)).buffer);
    const lowest = layer.type === "int16" ? -32768 : 0;
    const table = new Uint32Array(layer.type === "int16" ? 65536 : 256);
    const scale = 255 / Math.max(volume.cal_max - volume.cal_min, 1e-9);
    for (let i = 0; i < table.length; i++) {
      const grey = Math.round(((i + lowest) * layer.slope + layer.intercept - volume.cal_min) * scale);
      table[i] = (colours[Math.min(255, Math.max(0, grey))] | 0xff000000) >>> 0;
    }
    const painted = new Uint32Array(stored.length);
    for (let i = 0; i < stored.length; i++) painted[i] = table[stored[i] - lowest];
    return new Uint8Array(painted.buffer);
  }

  function lookupTable(colours) {
    const [R, G, B] = [0, 1, 2].map((channel) => colours.map((colour) => colour[channel]));
    return { R, G, B, A: colours.map((_, i) => (i ? 255 : 0)), I: colours.map((_, i) => i) };
  }

  // --- one place for all -----------------------------------------------------------------------------------------------

  const isShown = (role) => !stacked() || role === state.below || role === state.above;

  function follow(from) {
    const { nv } = panes[from];
    for (const role of ROLES) {
      const other = panes[role] && panes[role].nv;
      if (!other || role === from || !other.volumes.length) continue;
      other.scene.crosshairPos = [...nv.scene.crosshairPos];
      other.scene.pan2Dxyzmm = [...nv.scene.pan2Dxyzmm];
      if (isShown(role)) other.drawScene();
    }
    tell();
  }

  const lead = () => panes[stacked() ? state.above : "fused"];
  const voxel = () => Array.from(lead().nv.scene.crosshairPos, (part, axis) =>
    Math.min(about.shape[axis] - 1, Math.max(0, Math.floor(part * about.shape[axis]))));

  function moveTo(at) {
    const { nv, role } = lead();
    nv.scene.crosshairPos = at.map((index, axis) =>
      (Math.min(about.shape[axis] - 1, Math.max(0, index)) + 0.5) / about.shape[axis]);
    nv.drawScene();
    follow(role);
  }

  function step(count) {
    const at = voxel();
    at[PLANES[state.plane].axis] += count;
    moveTo(at);
  }

  function zoom(factor) {
    const { nv, role } = lead();
    const pan = nv.scene.pan2Dxyzmm;
    const wanted = Math.min(10, Math.max(0.5, pan[3] * factor));
    const mm = nv.frac2mm(nv.scene.crosshairPos);
    const change = pan[3] - wanted; // what is under the crosshair stays where it is
    nv.scene.pan2Dxyzmm = [pan[0] + change * mm[0], pan[1] + change * mm[1], pan[2] + change * mm[2], wanted];
    nv.drawScene();
    follow(role);
  }

  // --- values ----------------------------------------------------------------------------------------------------------

  function valueOf(role, [i, j, k]) {
    const layer = about.layers[role];
    const stored = (panes[role] || layer).stored;
    const [nx, ny] = about.shape;
    const index = i + nx * (j + ny * k);
    if (layer.type === "rgba") {
      const colour = Array.from(stored.slice(4 * index, 4 * index + 3));
      return `RGB ${colour.join(", ")}`;
    }
    if (layer.type === "int16" && stored[index] === layer.unseen) return "outside";
    const value = stored[index] * layer.slope + layer.intercept;
    if (role === "check") return ["nothing", ...Object.keys(about.check)][value] || "nothing";
    const digits = layer.slope === 1 ? 0 : Math.max(0, Math.min(4, -Math.floor(Math.log10(layer.slope * 10))));
    return `${value.toFixed(digits)}${layer.unit ? ` ${layer.unit}` : ""}`;
  }

  function placeOf(at) {
    if (about.picture) return `column ${about.shape[0] - at[0]}, row ${about.shape[1] - at[1]}`;
    const mm = about.affine.slice(0, 3).map((row) => row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]);
    const names = [["R", "L"], ["A", "P"], ["S", "I"]];
    return mm.map((x, axis) => `${names[axis][x < 0 ? 1 : 0]} ${Math.abs(x).toFixed(1)}`).join("  ") + "  mm";
  }

  function tell() {
    const at = voxel();
    $("place").textContent = placeOf(at);
    for (const row of $("values").rows) row.cells[1].textContent = valueOf(row.dataset.role, at);
    for (const role of ROLES) if (panes[role]) caption(role, at);
    for (const input of $("slices").querySelectorAll("input")) {
      const axis = Number(input.dataset.axis);
      input.value = at[axis];
      input.nextElementSibling.value = `${at[axis] + 1} / ${about.shape[axis]}`;
    }
    dividers();
  }

  function caption(role, at) {
    const pane = panes[role];
    pane.caption.textContent = "";
    const name = document.createElement("b");
    name.textContent = titleOf(role);
    pane.caption.append(name, ` ${valueOf(role, at)}`);
  }

  // --- comparing -------------------------------------------------------------------------------------------------------

  function arrange() {
    const mode = compares();
    stage.className = stacked() ? `stacked ${mode}` : "side";
    for (const role of ROLES) {
      const { box } = panes[role];
      box.classList.toggle("away", !isShown(role));
      box.classList.toggle("above", stacked() && role === state.above);
      box.classList.toggle("below", stacked() && role === state.below);
    }
    for (const button of document.querySelectorAll(".mode")) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode && !state.flicker));
    }
    $("flicker").setAttribute("aria-pressed", String(state.flicker));
    $("pair").classList.toggle("idle", !stacked());
    $("below").value = state.below;
    $("above").value = state.above;
    $("planes").value = state.planes;
    const amount = AMOUNTS[mode];
    $("amount-label").hidden = !amount;
    if (amount) {
      $("amount-name").textContent = amount.name;
      $("amount").value = amount.value;
    }
    clearTimeout(timer);
    state.shown = true;
    if (state.flicker) timer = setTimeout(blink, pause());
    resize();
    mix();
    tell();
  }

  function resize() {
    const longest = Math.max(...about.shape.map((n, axis) => n * Math.hypot(...about.affine.slice(0, 3).map((row) => row[axis])))); // mm
    for (const role of ROLES) {
      const { nv } = panes[role];
      if (!isShown(role)) continue;
      nv.opts.crosshairWidth = (stacked() ? 0.6 : 1.1) * (longest / 224);
      nv.opts.crosshairGap = longest / 22;
      if (nv.crosshairs3D) nv.crosshairs3D.mm[0] = NaN; // NiiVue's sign to make it anew
      nv.customLayout = layout();
      nv.opts.sliceType = nv.customLayout ? niivue.SLICE_TYPE.MULTIPLANAR : Number(state.planes) || 0;
      nv.resizeListener();
    }
  }

  // The planes of a canvas; null for one plane alone. Side by side they stand in a row or a column; in one large picture
  // the axial plane has the most room.
  function layout() {
    if (about.picture || state.planes !== "all") return null;
    const { clientWidth: width, clientHeight: height } = lead().holder;
    const places = stacked()
      ? width > height
        ? [[0, 0, 0.56, 1], [0.56, 0, 0.44, 0.5], [0.56, 0.5, 0.44, 0.5]]
        : [[0, 0, 1, 0.6], [0, 0.6, 0.5, 0.4], [0.5, 0.6, 0.5, 0.4]]
      : width > height
        ? [[0, 0, 0.3, 1], [0.3, 0, 0.33, 1], [0.63, 0, 0.37, 1]]
        : [[0, 0, 1, 0.38], [0, 0.38, 1, 0.31], [0, 0.69, 1, 0.31]];
    return places.map((position, sliceType) => ({ sliceType, position }));
  }

  function mix() {
    for (const role of ROLES) Object.assign(panes[role].holder.style, { opacity: "", clipPath: "", maskImage: "", maskSize: "" });
    $("amount-value").value = AMOUNTS[compares()] ? AMOUNTS[compares()].says(AMOUNTS[compares()].value) : "";
    dividers();
    if (!stacked()) return;
    const style = panes[state.above].holder.style;
    const mode = compares();
    if (mode === "blend") style.opacity = String(AMOUNTS.blend.value / 100);
    if (mode === "flicker") style.opacity = state.shown ? "1" : "0";
    if (mode === "checkerboard") {
      style.maskImage = "conic-gradient(#000 25%, #0000 0 50%, #000 0 75%, #0000 0)";
      style.maskSize = `${2 * tileSize()}px ${2 * tileSize()}px`;
    }
    for (const role of ROLES) {
      panes[role].caption.classList.toggle("hidden-now", mode === "flicker" && (role === state.above) !== state.shown);
    }
  }

  function blink() {
    state.shown = !state.shown;
    mix();
    timer = setTimeout(blink, pause());
  }

  // Where each plane is drawn, in CSS pixels of the stage.
  function tiles() {
    const { nv } = lead();
    const scale = 1 / (nv.uiData.dpr || 1);
    return nv.screenSlices.filter((tile) => tile.axCorSag <= 2).map((tile) => {
      const [left, top, width, height] = tile.leftTopWidthHeight.map((x) => x * scale);
      return { left, top, width, height, plane: tile.axCorSag };
    });
  }

  // The reveal: in each plane the volume on top is seen to the right of a line.
  function dividers() {
    const found = compares() === "reveal" && stacked() ? tiles() : [];
    const lines = [...stage.querySelectorAll(".divider")];
    while (lines.length < found.length) {
      const line = document.createElement("div");
      line.className = "divider";
      stage.append(line);
      line.addEventListener("pointerdown", (event) => line.setPointerCapture(event.pointerId));
      line.addEventListener("pointermove", (event) => {
        if (!line.hasPointerCapture(event.pointerId)) return;
        const tile = tiles()[lines.indexOf(line)];
        const x = event.clientX - stage.getBoundingClientRect().left - tile.left;
        setAmount(Math.round((100 * x) / tile.width));
      });
      lines.push(line);
    }
    lines.splice(found.length).forEach((line) => line.remove());
    if (!found.length) return;
    const share = AMOUNTS.reveal.value / 100;
    let path = "";
    found.forEach((tile, i) => {
      const x = tile.left + share * tile.width;
      Object.assign(lines[i].style, { left: `${x}px`, top: `${tile.top + panes[state.above].holder.offsetTop}px`, height: `${tile.height}px` });
      path += `M${x} ${tile.top}H${tile.left + tile.width}V${tile.top + tile.height}H${x}Z`;
    });
    panes[state.above].holder.style.clipPath = `path("${path}")`;
  }

  function setAmount(value) {
    const amount = AMOUNTS[compares()];
    if (!amount) return;
    amount.value = Math.min(100, Math.max(0, value));
    $("amount").value = amount.value;
    mix();
  }

  function choose(below, above) {
    Object.assign(state, { below, above });
    arrange();
  }

  function setMode(mode) {
    Object.assign(state, { mode, flicker: false });
    arrange();
  }

  function flicker() {
    state.flicker = !state.flicker;
    arrange();
  }

  function setPlanes(planes) {
    state.planes = planes;
    if (planes !== "all") state.plane = Number(planes);
    arrange();
  }

  // --- windows and colours ---------------------------------------------------------------------------------------------

  function element(name, attributes = {}, ...children) {
    const made = Object.assign(document.createElement(name), attributes);
    made.append(...children);
    return made;
  }

  function options(names) {
    return Object.entries(names).map(([value, textContent]) => element("option", { value, textContent }));
  }

  function windowControls(role) {
    const layer = about.layers[role];
    const box = element("fieldset", { className: "layer" }, element("legend", { textContent: layer.title }));
    box.dataset.role = role;
    if (layer.colour) {
      const select = element("select", {}, ...options({ own: "its own colours", grey: "grey" }));
      select.addEventListener("change", () => { panes[role].canvas.style.filter = select.value === "grey" ? "grayscale(1)" : ""; });
      box.append(element("label", { className: "select" }, "Colours ", select));
      panes[role].reset = () => { select.value = "own"; panes[role].canvas.style.filter = ""; };
      return box;
    }
    const volume = () => panes[role].nv.volumes[0];
    const [lowest, highest] = rangeOf(layer);
    const grain = (highest - lowest) / 2000;
    const preset = element("select", {}, ...options(Object.fromEntries(Object.keys(layer.windows).map((x) => [x, x]))),
      element("option", { value: "own", textContent: "own", hidden: true }));
    const level = element("input", { type: "range", min: lowest, max: highest, step: grain });
    const width = element("input", { type: "range", min: grain, max: highest - lowest, step: grain });
    const levelSays = element("output");
    const widthSays = element("output");
    const colours = element("select", {}, ...options(COLOURS));
    const digits = layer.slope === 1 ? 0 : highest - lowest > 20 ? 0 : 2;
    const limits = () => [Number(level.value) - Number(width.value) / 2, Number(level.value) + Number(width.value) / 2];
    let waits = false;

    function say() {
      levelSays.value = Number(level.value).toFixed(digits);
      widthSays.value = Number(width.value).toFixed(digits);
    }
    function show(low, high) {
      level.value = (low + high) / 2;
      width.value = high - low;
      say();
    }
    function apply([low, high]) {
      Object.assign(volume(), { cal_min: low, cal_max: high });
      if (waits) return;
      waits = true;
      requestAnimationFrame(() => { waits = false; panes[role].nv.updateGLVolume(); });
    }
    for (const input of [level, width]) {
      input.addEventListener("input", () => { preset.value = "own"; say(); apply(limits()); });
    }
    preset.addEventListener("change", () => { show(...layer.windows[preset.value]); apply(layer.windows[preset.value]); });
    colours.addEventListener("change", () => panes[role].nv.setColormap(volume().id, colours.value));
    panes[role].read = () => { preset.value = "own"; show(volume().cal_min, volume().cal_max); };
    panes[role].reset = () => {
      preset.value = Object.keys(layer.windows)[0];
      colours.value = layer.colours;
      show(...windowOf(layer));
      volume().colormap = layer.colours;
      apply(windowOf(layer));
    };
    box.append(
      element("label", { className: "select" }, "Window ", preset), element("label", { className: "select" }, "Colours ", colours),
      element("label", { className: "wide" }, element("span", { textContent: "Level" }), level, levelSays),
      element("label", { className: "wide" }, element("span", { textContent: "Width" }), width, widthSays),
    );
    show(...windowOf(layer));
    colours.value = layer.colours;
    return box;
  }

  // --- maps ------------------------------------------------------------------------------------------------------------

  const UNCERTAINTY = [[0, 0, 0, 0], [255, 210, 60, 120], [255, 120, 20, 200], [255, 30, 60, 255]];

  function mapTable(role) {
    if (role === "uncertainty") {
      const [R, G, B, A] = [0, 1, 2, 3].map((channel) => UNCERTAINTY.map((colour) => colour[channel]));
      return { R, G, B, A, I: [0, 60, 150, 255] };
    }
    const colours = Object.values(about.check);
    const [R, G, B] = [0, 1, 2].map((channel) => [0, ...colours.map((colour) => colour[channel])]);
    return { R, G, B, A: [0, ...colours.map(() => 255)], I: R.map((_, i) => i), labels: ["", ...Object.keys(about.check)] };
  }

  async function addMap(role) {
    const layer = about.layers[role];
    if (!layer.buffer) Object.assign(layer, await decode(role));
    for (const owner of ROLES) {
      const { nv } = panes[owner];
      nv.addColormap(role, mapTable(role));
      const made = await image(role, role === "check" ? "gray" : role, 0, layer.highest || 255, layer.opacity);
      if (role === "check") made.setColormapLabel(mapTable(role));
      made.ddfmRole = role;
      nv.addVolume(made);
    }
  }

  function removeMap(role) {
    for (const owner of ROLES) {
      const { nv } = panes[owner];
      for (const volume of nv.volumes.filter((x) => x.ddfmRole === role)) nv.removeVolume(volume);
    }
  }

  function mapControls(role) {
    const layer = about.layers[role];
    layer.opacity = 0.6;
    const box = element("fieldset", { className: "layer" });
    box.dataset.role = role;
    const check = element("input", { type: "checkbox", id: `map-${role}` });
    const name = role === "check" ? "Where to look at the sources" : "Uncertainty";
    const opacity = element("input", { type: "range", min: 0, max: 100, value: 60 });
    const says = element("output", { value: "60 %" });
    check.addEventListener("change", async () => {
      check.disabled = true;
      if (check.checked) await addMap(role);
      else removeMap(role);
      check.disabled = false;
      tell();
    });
    opacity.addEventListener("input", () => {
      layer.opacity = Number(opacity.value) / 100;
      says.value = `${opacity.value} %`;
      for (const owner of ROLES) {
        const { nv } = panes[owner];
        nv.volumes.forEach((volume, i) => { if (volume.ddfmRole === role) nv.setOpacity(i, layer.opacity); });
      }
    });
    const legend = element("p", { className: "legend" });
    if (role === "check") {
      for (const [flag, colour] of Object.entries(about.check)) {
        const patch = element("i");
        patch.style.background = `rgb(${colour})`;
        legend.append(patch, ` ${flag} `);
      }
    } else {
      const bar = element("i", { className: "bar" });
      bar.style.background = `linear-gradient(90deg, ${UNCERTAINTY.map(([r, g, b, a]) => `rgba(${r},${g},${b},${a / 255})`)})`;
      legend.append("0 ", bar, ` ${layer.highest.toFixed(3)} of the grey scale (standard deviation)`);
    }
    box.append(element("label", { className: "tick" }, check, ` ${name}`),
      element("label", { className: "wide" }, element("span", { textContent: "Opacity" }), opacity, says), legend);
    layer.reset = () => {
      if (check.checked) { check.checked = false; removeMap(role); }
    };
    return box;
  }

  // --- hands -----------------------------------------------------------------------------------------------------------

  function reset() {
    state = first();
    for (const [mode, value] of Object.entries({ blend: 50, reveal: 50, checkerboard: 25, flicker: 50 })) AMOUNTS[mode].value = value;
    for (const role of ROLES) {
      panes[role].nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
      panes[role].reset();
    }
    for (const role of MAPS) if (about.layers[role]) about.layers[role].reset();
    arrange();
    moveTo(firstVoxel());
  }

  function firstVoxel() {
    if (!about.point) return about.shape.map((n) => Math.floor(n / 2));
    const m = about.affine;
    const d = about.point.map((x, i) => x - m[i][3]);
    const det = (a, b, c) => a[0] * (b[1] * c[2] - b[2] * c[1]) - b[0] * (a[1] * c[2] - a[2] * c[1]) + c[0] * (a[1] * b[2] - a[2] * b[1]);
    const columns = [0, 1, 2].map((j) => [m[0][j], m[1][j], m[2][j]]);
    const whole = det(...columns);
    return columns.map((_, j) => Math.round(det(...columns.map((column, i) => (i === j ? d : column))) / whole));
  }

  const KEYS = {
    1: () => setMode("side"), 2: () => setMode("blend"), 3: () => setMode("reveal"), 4: () => setMode("checkerboard"),
    " ": flicker, r: reset, x: () => choose(state.above, state.below),
    p: () => setPlanes({ all: "0", 0: "1", 1: "2", 2: "all" }[state.planes]),
    ArrowUp: () => step(1), ArrowDown: () => step(-1), PageUp: () => step(BIG_STEP), PageDown: () => step(-BIG_STEP),
    ArrowLeft: () => nudge(-1), ArrowRight: () => nudge(1), "+": () => zoom(1.2), "=": () => zoom(1.2), "-": () => zoom(1 / 1.2),
    "?": () => $("help").showModal(),
  };

  function nudge(direction) {
    const amount = AMOUNTS[compares()];
    if (amount) setAmount(amount.value + direction * amount.step);
  }

  function onKey(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const takesArrows = target.matches("input[type=range], select, aside, aside *");
    const takesSpace = target.matches("button, summary, select, input[type=checkbox]");
    const takesLetters = target.matches("select");
    const isArrow = key.startsWith("Arrow") || key.startsWith("Page");
    const isOurs = key in KEYS && !(isArrow && takesArrows) && !(key === " " && takesSpace) && !(key.length === 1 && key !== " " && takesLetters);
    if (target.matches("canvas")) event.stopPropagation(); // NiiVue has other keys
    if (!isOurs) return;
    event.preventDefault();
    event.stopPropagation();
    KEYS[key]();
  }

  function planeUnder(event) {
    const rectangle = event.target.getBoundingClientRect();
    const [x, y] = [event.clientX - rectangle.left, event.clientY - rectangle.top];
    const pane = Object.values(panes).find((p) => p.canvas === event.target);
    if (!pane) return null;
    const scale = 1 / (pane.nv.uiData.dpr || 1);
    const tile = pane.nv.screenSlices.find(({ leftTopWidthHeight: [l, t, w, h] }) =>
      x >= l * scale && x < (l + w) * scale && y >= t * scale && y < (t + h) * scale);
    return tile && tile.axCorSag <= 2 ? tile.axCorSag : null;
  }

  function listen() {
    document.addEventListener("keydown", onKey, true);
    document.addEventListener("keyup", (event) => { if (event.target.matches("canvas")) event.stopPropagation(); }, true);
    for (const button of document.querySelectorAll(".mode")) button.addEventListener("click", () => setMode(button.dataset.mode));
    $("flicker").addEventListener("click", flicker);
    $("swap").addEventListener("click", () => choose(state.above, state.below));
    $("reset").addEventListener("click", reset);
    $("help-button").addEventListener("click", () => $("help").showModal());
    $("amount").addEventListener("input", () => setAmount(Number($("amount").value)));
    $("planes").addEventListener("change", () => setPlanes($("planes").value));
    for (const [id, other] of [["below", "above"], ["above", "below"]]) {
      $(id).append(...options(Object.fromEntries(ROLES.map((role) => [role, titleOf(role)]))));
      $(id).addEventListener("change", () => {
        const chosen = $(id).value;
        const kept = state[other] === chosen ? state[id] : state[other];
        choose(...(id === "below" ? [chosen, kept] : [kept, chosen]));
      });
    }
    // After a click the keys are the viewer's again; who comes by the tabulator keeps the focus.
    document.addEventListener("click", (event) => {
      if (event.detail && event.target.closest("button, input[type=checkbox]") && !$("help").open) stage.focus({ preventScroll: true });
    });
    document.addEventListener("change", (event) => { if (event.target.matches("select")) stage.focus({ preventScroll: true }); });
    stage.addEventListener("mousedown", (event) => {
      const plane = planeUnder(event);
      if (plane !== null) state.plane = plane;
    }, true);
    stage.addEventListener("dblclick", (event) => {
      event.stopPropagation();
      const plane = planeUnder(event);
      if (plane !== null) setPlanes(state.planes === "all" ? String(plane) : "all");
    }, true);
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      event.stopPropagation();
      const plane = planeUnder(event);
      if (plane !== null) state.plane = plane;
      if (event.ctrlKey) zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1);
      else if (event.deltaY) step(event.deltaY < 0 ? 1 : -1);
    }, { capture: true, passive: false });
    for (const kind of ["mousemove", "touchmove"]) {
      stage.addEventListener(kind, (event) => {
        const pane = Object.values(panes).find((p) => p.canvas === event.target);
        if (pane && (event.buttons || kind === "touchmove")) requestAnimationFrame(() => followPan(pane));
      });
    }
    new ResizeObserver(() => requestAnimationFrame(() => { resize(); mix(); })).observe(stage);
  }

  // Moving the image and the window by mouse are NiiVue's own: what it changed is taken over.
  function followPan(pane) {
    const { nv, role } = pane;
    const other = panes[ROLES.find((x) => x !== role && isShown(x))].nv;
    if (nv.scene.pan2Dxyzmm.some((x, i) => x !== other.scene.pan2Dxyzmm[i])) follow(role);
    if (pane.read) {
      const { cal_min: low, cal_max: high } = nv.volumes[0];
      if (pane.low !== low || pane.high !== high) pane.read();
      Object.assign(pane, { low, high });
    }
  }

  function slicesControls() {
    for (const { name, axis } of PLANES) {
      if (about.shape[axis] < 2) continue;
      const input = element("input", { type: "range", min: 0, max: about.shape[axis] - 1 });
      input.dataset.axis = axis;
      input.addEventListener("input", () => {
        const at = voxel();
        at[axis] = Number(input.value);
        moveTo(at);
      });
      if (about.picture) continue;
      $("slices").append(element("label", { className: "wide" }, element("span", { textContent: name }), input, element("output")));
    }
    $("slices").hidden = about.picture;
  }

  async function start() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      throw new Error("This browser cannot draw the images: WebGL 2 is missing or switched off. Try another browser.");
    }
    for (const role of ROLES) await makePane(role);
    for (const role of [...ROLES, ...MAPS.filter((x) => about.layers[x])]) {
      const row = $("values").insertRow();
      row.dataset.role = role;
      row.append(element("th", { scope: "row", textContent: role in panes ? titleOf(role) : role.replace(/^./, (letter) => letter.toUpperCase()) }));
      row.insertCell();
    }
    for (const role of MAPS) if (about.layers[role]) Object.assign(about.layers[role], await decode(role));
    slicesControls();
    $("windows").append(...ROLES.map(windowControls));
    const maps = MAPS.filter((role) => about.layers[role]);
    $("overlays").append(...maps.map(mapControls));
    $("overlays").hidden = !maps.length;
    if (about.picture) document.querySelector(".planes").hidden = true;
    listen();
    $("status").remove();
    for (const role of ROLES) delete panes[role].nv.drawScene;
    arrange();
    moveTo(firstVoxel());
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
  }

  start().catch((error) => {
    const status = $("status") || stage.appendChild(element("p", { id: "status" }));
    status.textContent = error.message;
    status.className = "failed";
    throw error;
  });
})();
