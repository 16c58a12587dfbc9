// The search page. What is asked is one of
//   null                                  nothing: the images of the index are shown
//   {image, box}                          an image of the index, which the address names, too
//   {file, url, box}                      a picture of the user's, which is in this page alone
// and gets a `size` and a `descriptor` once the server has seen it.
"use strict";

const $ = (id) => document.getElementById(id);
const PAGE = 40;
const uploads = [];  // so that the browser's Back finds them again
let info = null, asked = null, offset = 0, more = false, running = new AbortController(), later = 0;

// --- Asking the server

async function ask(path, parameters, options = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value != null);
  const address = `/api/${path}?${new URLSearchParams(given)}`;
  for (let attempt = 0; ; attempt++) {
    let answer;
    try {
      answer = await fetch(address, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server cannot be reached; is it still running?");
    }
    if (answer.ok) return answer;
    if (answer.status !== 503 || attempt === 30) {
      const text = (await answer.json().catch(() => ({}))).error;
      throw new Error(text ? text.replace(/^the /, "The ") : `Error ${answer.status}`);
    }
    $("status").textContent = "the server is busy, waiting …";
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (0.5 + Math.random())));
  }
}

function next() {
  const range = { offset, top: PAGE }, { signal } = running;
  if (!asked) return ask("images", range, { signal });
  if (asked.descriptor) {
    const body = Uint8Array.from(atob(asked.descriptor), (c) => c.charCodeAt(0));
    return ask("search/descriptor", range, { method: "POST", body, signal });
  }
  const box = asked.box && asked.box.join(",");
  if (asked.image) return ask("search", { ...range, image: asked.image, box }, { signal });
  const name = asked.file.name.slice(0, 255) || "picture";
  return ask("search", { ...range, box, name }, { method: "POST", body: asked.file, signal });
}

async function load() {
  const query = asked, signal = running.signal;
  $("found").setAttribute("aria-busy", "true");
  $("more").hidden = true;
  $("status").textContent = offset ? "" : query ? "searching …" : "";
  try {
    const found = await (await next()).json();
    if (signal.aborted) return;
    if (!offset) $("results").replaceChildren();
    const results = found.results || found.names.map((name) => ({ name }));
    $("results").append(...results.map(item));
    offset += results.length;
    more = found.more;
    if (query) {
      // Of a whole image of the index the server has the descriptor; what is sent is short.
      if (query.file || query.box) query.descriptor = found.query.descriptor;
      if (found.query && found.query.width) resize(query, found.query.width, found.query.height);
    }
    $("error").hidden = true;
    $("status").textContent = `${number(offset)} of ${number(info.images)}`;
    $("more").hidden = !more;
    watcher.unobserve($("more"));
    if (more) watcher.observe($("more"));
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message, true);
  } finally {
    if (!signal.aborted) $("found").setAttribute("aria-busy", "false");
  }
}

function complain(message, again = false) {
  $("error").textContent = message;
  $("error").hidden = false;
  $("status").textContent = "";
  if (again && !offset) $("results").replaceChildren();
  $("more").hidden = !(again && offset);  // without the watcher: only a click tries again
  watcher.unobserve($("more"));
}

function start() {
  running.abort();
  running = new AbortController();
  clearTimeout(later);
  offset = 0;
  return load();
}

const watcher = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting) && $("found").ariaBusy !== "true") load();
}, { rootMargin: "800px" });

// --- Results

const number = (count) => count.toLocaleString("en");

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function address(image, box) {
  return `?${new URLSearchParams(box ? { image, box: box.join(",") } : { image })}`;
}

function item({ rank, name, score }) {
  const made = document.createElement("li"), link = element("a", "open"), label = element("p", "name");
  link.href = address(name);
  link.dataset.image = name;
  const picture = element("img", "");
  Object.assign(picture, { alt: name, loading: "lazy", decoding: "async", width: 256, height: 256 });
  picture.src = `/api/thumbnail?${new URLSearchParams({ image: name })}`;
  picture.addEventListener("error", () => {
    const missing = element("div", "missing", "cannot be opened");
    missing.setAttribute("aria-label", `${name}, cannot be opened`);
    picture.replaceWith(missing);
  });
  link.append(picture);
  made.append(link);
  if (rank) {
    const place = element("p", "rank");
    place.append(element("b", "", rank));
    made.append(place, element("p", "score", score.toFixed(3).replace("-", "−")));
  }
  label.title = name;
  label.append(element("bdi", "", name));
  made.append(label);
  return made;
}

$("results").addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  open({ image: link.dataset.image }, true);
});

$("results").addEventListener("keydown", (event) => {
  const links = [...$("results").querySelectorAll("a")], at = links.indexOf(event.target);
  const tops = links.map((link) => link.parentElement.offsetTop);
  const columns = tops.filter((top) => top === tops[0]).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (at < 0 || !step || !links[at + step]) return;
  event.preventDefault();
  links[at + step].focus();
});

$("more").addEventListener("click", load);

// --- The query

function open(query, push) {
  asked = query;
  if (push) {
    if (query && query.file) history.pushState({ upload: uploads.indexOf(query) }, "", "/");
    else history.pushState(null, "", query ? address(query.image, query.box) : "/");
    scrollTo(0, 0);
    $("heading").focus({ preventScroll: true });
  }
  $("query").hidden = !query;
  $("what").textContent = query ? "Results" : "Images of the index";
  const name = query ? query.image || query.file.name || "Pasted picture" : "";
  document.title = `${name ? `${name} – ` : ""}${info.name}`;
  $("name").textContent = name;
  $("size").textContent = "";
  $("link").hidden = !(query && query.image);
  if (query) show(query);
  return start();
}

async function show(query) {
  $("frame").hidden = $("hint").hidden = $("no-preview").hidden = true;
  draw();
  const picture = $("picture");
  picture.alt = `Query ${$("name").textContent}`;
  const shown = async (url) => {
    picture.src = url;
    await picture.decode();
    if (!query.size) resize(query, picture.naturalWidth, picture.naturalHeight);
  };
  try {
    if (!query.file || !await shown(query.url).then(() => true, () => false)) {
      // An image of the index, or a picture that the browser does not know: the server copies it.
      const body = query.file && { method: "POST", body: query.file };
      const answer = await ask("picture", { image: query.image }, body || {});
      const [width, height] = answer.headers.get("Picture-Size").split("x").map(Number);
      const url = URL.createObjectURL(await answer.blob());
      if (asked !== query) return;
      resize(query, width, height);
      await shown(url).finally(() => URL.revokeObjectURL(url));
    }
    if (asked === query) $("frame").hidden = $("hint").hidden = false;
  } catch (error) {
    if (asked === query) $("no-preview").hidden = false;
  }
}

function resize(query, width, height) {
  query.size = [width, height];
  $("size").textContent = `· ${width} × ${height} pixels`;
  $("frame").style.setProperty("--ratio", width / height);
  draw();
}

function take(file) {
  if (!file) return;
  if (file.size > info.largest_upload) {
    const [size, most] = [file.size, info.largest_upload].map((bytes) => number(bytes / 1e6));
    complain(`${file.name} is too large: ${size} MB; at most ${most} MB are taken.`);
    return;
  }
  const query = { file, url: URL.createObjectURL(file) };
  uploads.push(query);
  open(query, true);
}

$("file").addEventListener("change", () => {
  take($("file").files[0]);
  $("file").value = "";  // so that the same file can be chosen again
});
addEventListener("paste", (event) => take(event.clipboardData.files[0]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files[0]);
});

// --- The box, in pixels of the picture as the server sees it

function draw(box = asked && asked.box) {
  $("box").toggleAttribute("hidden", !(box && asked.size));
  $("whole").hidden = !box;
  $("part").textContent = box ? `Box: ${box[0]}, ${box[1]} – ${box[2]}, ${box[3]}` : "";
  if (asked && asked.image) $("link").href = address(asked.image, asked.box);
  if (!box || !asked.size) return;
  const [width, height] = asked.size, percent = (part, whole) => `${(100 * part) / whole}%`;
  for (const rect of $("box").children) {
    rect.setAttribute("x", percent(box[0], width));
    rect.setAttribute("y", percent(box[1], height));
    rect.setAttribute("width", percent(box[2] - box[0], width));
    rect.setAttribute("height", percent(box[3] - box[1], height));
  }
}

function choose(box, delay = 0) {
  asked.box = box;
  asked.descriptor = undefined;
  if (asked.image) history.replaceState(null, "", address(asked.image, box));
  draw();
  clearTimeout(later);
  later = setTimeout(start, delay);
}

function at(event) {
  const { left, top, width, height } = $("canvas").getBoundingClientRect();
  const inside = (part) => Math.min(Math.max(part, 0), 1);
  return [Math.round(inside((event.clientX - left) / width) * asked.size[0]),
          Math.round(inside((event.clientY - top) / height) * asked.size[1])];
}

$("canvas").addEventListener("pointerdown", (event) => {
  if (event.button || !asked.size) return;
  const canvas = $("canvas"), [x, y] = at(event), before = asked.box;
  let box = null;
  canvas.setPointerCapture(event.pointerId);
  canvas.onpointermove = (move) => {
    const [u, v] = at(move);
    box = [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
    draw(box);
  };
  canvas.onpointerup = canvas.onpointercancel = (end) => {
    canvas.onpointermove = canvas.onpointerup = canvas.onpointercancel = null;
    const least = Math.max(...asked.size) / 50;  // less is a click
    const drawn = box && box[2] - box[0] >= least && box[3] - box[1] >= least;
    if (end.type === "pointerup" && drawn) choose(box);
    else draw(before);
  };
});

$("canvas").addEventListener("keydown", (event) => {
  if (!asked.size) return;
  const remove = ["Delete", "Backspace", "Escape"].includes(event.key);
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!way && !(remove && asked.box)) return;
  event.preventDefault();
  if (remove) return choose(undefined);
  const quarter = asked.size.map((side) => Math.round(side / 4));
  const box = asked.box ? [...asked.box] :
    [quarter[0], quarter[1], asked.size[0] - quarter[0], asked.size[1] - quarter[1]];
  if (asked.box) {
    for (const axis of [0, 1]) {
      const side = asked.size[axis], step = way[axis] * Math.max(Math.round(side / 40), 1);
      const most = side - box[axis + 2], least = event.shiftKey ? 1 - (box[axis + 2] - box[axis]) : -box[axis];
      const by = Math.min(Math.max(step, least), most);
      box[axis + 2] += by;
      if (!event.shiftKey) box[axis] += by;
    }
  }
  choose(box, 600);
});

$("whole").addEventListener("click", () => {
  choose(undefined);
  $("canvas").focus();
});

// --- The address

function restore() {
  const given = new URLSearchParams(location.search), image = given.get("image");
  const box = (given.get("box") || "").split(",").map(Number);
  const upload = history.state && uploads[history.state.upload];
  const valid = box.length === 4 && box.every(Number.isFinite);
  return open(image ? { image, box: valid ? box : undefined } : upload || null, false);
}

addEventListener("popstate", restore);
$("all").addEventListener("click", (event) => {
  event.preventDefault();
  open(null, true);
});

(async () => {
  try {
    info = await (await ask("index", {})).json();
  } catch (error) {
    return complain(error.message);
  }
  $("title").textContent = info.name;
  $("summary").textContent = `${number(info.images)} ${info.images === 1 ? "image" : "images"} · ${info.engine} search`;
  $("summary").title = info.recipe;
  $("version").textContent = `· dir_jax ${info.version}`;
  $("frame").classList.toggle("as-stored", !info.exif);
  restore();
})();
