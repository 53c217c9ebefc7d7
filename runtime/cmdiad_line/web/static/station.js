"use strict";
/* Live updates of the operator page. The page shows a verdict only while heartbeats arrive; station.css turns the page
   red when they do not, even if this script has ended. */
(() => {
  const body = document.body;
  const byId = (name) => document.getElementById(name);
  const DEAD_MS = 3000;
  const PICTURE_TRIES = 12;

  function write(name, text) {
    const element = byId(name);
    if (element.textContent !== text) element.textContent = text;
  }

  function cell(row, text, name) {
    const element = row.insertCell();
    element.textContent = text;
    if (name) element.className = name;
    return element;
  }

  function live() {
    let last = performance.now();
    let ended = false;
    let shownPicture = 0;
    let shownParts = "";

    function lose(reason) {
      body.dataset.screen = "lost";
      write("headline", "");
      write("title", "");
      write("message", "");
      if (reason) write("lost-reason", reason);
      shownPicture = -1;
    }

    function beat() {
      last = performance.now();
      body.dataset.beat = body.dataset.beat === "a" ? "b" : "a";
    }

    function showPicture(id, tries) {
      const image = byId("overlay");
      if (tries === 0 && id === shownPicture) return;
      shownPicture = id;
      if (tries === 0) image.hidden = true;
      byId("no-picture").hidden = !id;
      if (!id) return;
      const fresh = new Image();
      fresh.onload = () => {
        if (id !== shownPicture) return;
        image.src = fresh.src;
        image.hidden = false;
        byId("no-picture").hidden = true;
      };
      fresh.onerror = () => {
        if (id === shownPicture && tries < PICTURE_TRIES) setTimeout(() => {
          if (id === shownPicture) showPicture(id, tries + 1);
        }, 250);
      };
      fresh.src = `/results/${id}/picture?kind=overlay&side=960&try=${tries}`;
    }

    function showParts(parts) {
      const key = parts.map((part) => part.id).join();
      if (key === shownParts) return;
      shownParts = key;
      byId("strip").replaceChildren(...parts.slice().reverse().map((part) => {
        const item = document.createElement("li");
        if (part.verdict !== "OK") item.className = "ng";
        return item;
      }));
      const rows = document.createElement("tbody");
      rows.id = "parts";
      for (const part of parts) {
        const row = rows.insertRow();
        const link = document.createElement("a");
        link.href = `/parts/${part.id}`;
        link.textContent = part.part_id || part.id;
        cell(row, "").append(link);
        cell(row, part.time);
        const chip = document.createElement("span");
        chip.className = part.verdict === "OK" ? "chip ok" : "chip ng";
        chip.textContent = part.verdict;
        cell(row, "").append(chip);
        cell(row, part.title, "text");
        cell(row, part.score, "number");
        cell(row, part.milliseconds, "number");
      }
      byId("parts").replaceWith(rows);
    }

    function show(screen) {
      write("headline", screen.headline);
      write("title", screen.title);
      write("message", screen.message);
      write("part", screen.part ? `${screen.part.part_id || `Part ${screen.part.id}`} · ${screen.part.time}` : "");
      write("phase", screen.phase);
      write("recipe", screen.recipe);
      write("takt", screen.takt || "–");
      for (const [name, text] of Object.entries(screen.counters)) write(`count-${name}`, text);
      if (byId("start")) byId("start").hidden = screen.kind !== "stopped";
      if (byId("stop")) byId("stop").hidden = !["ok", "ng", "working", "waiting"].includes(screen.kind);
      // The overlay contains its verdict as text, so it disappears together with the verdict.
      showPicture(screen.part ? screen.part.id : 0, 0);
      showParts(screen.parts);
      body.dataset.screen = screen.kind;
    }

    const source = new EventSource("/live");
    source.addEventListener("screen", (event) => {
      try {
        show(JSON.parse(event.data));
        beat();
      } catch (error) {
        lose("This page could not show the state of the station. Load the page again.");
      }
    });
    source.addEventListener("end", () => {
      ended = true;
      source.close();
      lose("You are signed out. Load the page again to sign in.");
    });
    source.addEventListener("error", () => {
      if (!ended) lose();
      // After a refusal the browser does not try again by itself.
      if (source.readyState === EventSource.CLOSED && !ended) setTimeout(() => location.reload(), 3000);
    });
    const watch = () => { if (performance.now() - last > DEAD_MS && !ended) lose(); };
    setInterval(watch, 250);
    document.addEventListener("visibilitychange", watch);
    window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  }

  /* Keyboard of the review page: G, D and U choose, Enter stores, the right arrow skips, O switches the anomaly map. */
  function review(form) {
    const note = byId("note");
    const picture = byId("review-picture");
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key === "Escape") { document.activeElement.blur(); return; }
      if (document.activeElement === note) return;
      const key = event.key.toUpperCase();
      const choice = form.querySelector(`input[data-key="${CSS.escape(key)}"]`);
      if (choice) {
        choice.checked = true;
        note.focus();
        event.preventDefault();
      } else if (key === "O" && picture.dataset.overlay) {
        picture.src = picture.src.includes("kind=image") ? picture.dataset.overlay : picture.dataset.image;
      } else if (event.key === "ArrowRight") {
        location.href = form.dataset.skip;
      } else if (event.key === "Enter" && document.activeElement === body) {
        form.requestSubmit();
      }
    });
  }

  if (body.dataset.page === "operator") live();
  if (byId("review")) review(byId("review"));
})();
