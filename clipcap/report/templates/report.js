"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  root.classList.add("js");

  // Theme: as the system, light, dark.
  const themes = ["", "light", "dark"];
  const names = { "": "as the system", light: "light", dark: "dark" };
  const stored = (value) => {
    try { // a browser may keep nothing for files
      if (value === undefined) return localStorage.getItem("clipcap-theme") || "";
      localStorage.setItem("clipcap-theme", value);
    } catch { /* then it is as the system */ }
    return "";
  };
  const setTheme = (theme) => {
    root.dataset.theme = theme;
    $("theme").lastElementChild.textContent = names[theme];
  };
  $("theme").closest(".buttons").hidden = false;
  $("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
    setTheme(next);
    stored(next);
  });
  setTheme(themes.includes(stored()) ? stored() : "");

  const help = $("help");
  $("help-button").addEventListener("click", () => help.showModal());
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  const grid = $("cards");
  const tools = $("tools");
  const isTyping = (target) => target.matches("input, select, textarea");
  if (!grid) {
    document.addEventListener("keydown", (event) => {
      if (event.key === "?" && !document.querySelector("dialog[open]")) help.showModal();
    });
    return;
  }

  // The cards, in the order of the sheet.
  const sheet = [...grid.children];
  const cards = [...grid.querySelectorAll(".card")].map((element) => ({
    element,
    ...JSON.parse(element.dataset.card),
    text: [...element.querySelectorAll("[data-find]")].map((part) => part.textContent).join("\n").toLowerCase(),
  }));
  const byKey = new Map(cards.map((card) => [card.key, card]));
  const byElement = new Map(cards.map((card) => [card.element, card]));
  const fields = ["q", "split", "batch", "score", "min", "max", "sort"].map($).filter(Boolean);
  const group = () => tools.elements.group.value;
  const valueOf = (id) => ($(id) ? $(id).value : "");
  const shownCards = () => [...grid.querySelectorAll(".card:not([hidden])")];
  const firstScore = valueOf("score");

  tools.hidden = false;
  const show = () => {
    const words = valueOf("q").toLowerCase().split(/\s+/).filter(Boolean);
    const [split, batch, score, sort] = ["split", "batch", "score", "sort"].map(valueOf);
    const [min, max] = ["min", "max"].map((id) => (valueOf(id) === "" ? NaN : Number(valueOf(id))));
    const chosen = group();
    let count = 0;
    for (const card of cards) {
      const number = card.scores[score];
      const hit = words.every((word) => card.text.includes(word))
        && (!chosen || chosen in card.ranks)
        && (!split || card.split === split)
        && (!batch || card.batch === batch)
        && (Number.isNaN(min) || number >= min)
        && (Number.isNaN(max) || number <= max);
      card.element.hidden = !hit;
      count += hit;
    }
    let order = sheet;
    if (sort) {
      const sign = sort === "low" ? 1 : -1;
      const place = (card) => (card.scores[score] === undefined ? Infinity : sign * card.scores[score]);
      order = [...cards].sort((a, b) => (place(a) < place(b) ? -1 : place(a) > place(b) ? 1 : 0)).map((card) => card.element);
    } else if (chosen) {
      order = [...cards].sort((a, b) => (a.ranks[chosen] || 1e9) - (b.ranks[chosen] || 1e9)).map((card) => card.element);
    }
    if (order.some((element, position) => grid.children[position] !== element)) grid.append(...order);
    let heading = null; // a heading shows while a card of its group does
    for (const element of sheet) {
      if (!element.matches(".card")) {
        heading = element;
        heading.hidden = true;
      } else if (!element.hidden && !sort && !chosen) {
        heading.hidden = false;
      }
    }
    const active = [split, batch, valueOf("min"), valueOf("max"), sort].filter(Boolean).length;
    $("active").textContent = active ? `${active} set` : "";
    $("nothing").hidden = count > 0;
    const noun = cards.length === 1 ? "image" : "images";
    $("shown").textContent = count === cards.length ? `${count} ${noun}` : `${count} of ${cards.length} ${noun}`;
  };

  // What is shown stands in the address; links to sections leave it alone.
  const view = $("view");
  let current = null;
  const remember = () => {
    const state = new URLSearchParams();
    for (const field of fields) if (field.value && !(field.id === "score" && field.value === firstScore)) state.set(field.id, field.value);
    if (group()) state.set("group", group());
    if (current) state.set("image", current.key);
    const text = state.toString();
    if (!text && !location.hash.includes("=")) return;
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  };
  const recall = () => {
    const text = location.hash.slice(1);
    if (!text.includes("=")) return;
    const state = new URLSearchParams(text);
    for (const field of fields) field.value = state.get(field.id) || (field.id === "score" ? firstScore : "");
    const radios = [...tools.querySelectorAll("[name=group]")];
    (radios.find((radio) => radio.value === (state.get("group") || "")) || radios[0]).checked = true;
    if (fields.some((field) => field.value && field.closest("#filters") && !(field.id === "score" && field.value === firstScore))) $("filters").open = true;
    show();
    const wanted = byKey.get(state.get("image"));
    if (wanted) open(wanted.element);
    else if (view.open) view.close();
  };
  let later = 0;
  const changed = () => {
    show();
    clearTimeout(later);
    later = setTimeout(remember, 150); // browsers refuse too many changes of the address
  };
  tools.addEventListener("input", changed);
  tools.addEventListener("change", changed);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(changed));

  // The large view holds copies of what the card shows.
  function open(element) {
    current = byElement.get(element);
    const picture = element.querySelector("img, .gone").cloneNode(true);
    $("view-picture").replaceChildren(picture);
    const copy = element.querySelector(".text").cloneNode(true);
    for (const part of copy.querySelectorAll("[id]")) part.removeAttribute("id");
    copy.querySelector("details").open = true;
    $("view-words").replaceChildren(...copy.childNodes);
    $("view-words").scrollTop = 0;
    const shown = shownCards();
    const place = shown.indexOf(element);
    $("position").textContent = place < 0 ? "" : `${place + 1} of ${shown.length}`;
    $("previous").disabled = place <= 0;
    $("next").disabled = place < 0 || place === shown.length - 1;
    if (!view.open) view.showModal();
    remember();
  }
  const step = (by) => {
    const shown = shownCards();
    const next = shown[shown.indexOf(current.element) + by];
    if (next) open(next);
  };
  view.addEventListener("close", () => {
    const left = current && current.element;
    current = null;
    remember();
    if (left && !left.hidden) left.querySelector(".frame").focus();
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  grid.addEventListener("click", (event) => {
    const frame = event.target.closest(".frame");
    if (frame) open(frame.closest(".card"));
  });

  const columns = (shown) => {
    const top = shown[0].offsetTop;
    const found = shown.findIndex((element) => element.offsetTop !== top);
    return found < 0 ? shown.length : found;
  };
  const moves = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: (shown) => -columns(shown), ArrowDown: (shown) => columns(shown) };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (view.open) {
      if (event.key === "ArrowLeft") step(-1);
      else if (event.key === "ArrowRight") step(1);
      return;
    }
    if (help.open) return;
    if (isTyping(event.target)) {
      if (event.key === "Escape" && event.target.id === "q") {
        event.preventDefault();
        if (event.target.value) { event.target.value = ""; changed(); } else event.target.blur();
      }
      return;
    }
    if (event.key === "/") {
      event.preventDefault();
      $("q").focus();
      $("q").select();
    } else if (event.key === "?") {
      help.showModal();
    } else if (event.key in moves) {
      const shown = shownCards();
      const here = shown.indexOf(document.activeElement.closest(".card"));
      if (!shown.length || (here < 0 && document.activeElement !== document.body)) return;
      if (here < 0 && /Up|Down/.test(event.key)) return; // they scroll until a card has the focus
      const next = shown[here < 0 ? 0 : here + moves[event.key](shown)];
      if (!next) return;
      event.preventDefault();
      next.querySelector(".frame").focus();
    }
  });
  window.addEventListener("hashchange", recall);
  recall();
})();
