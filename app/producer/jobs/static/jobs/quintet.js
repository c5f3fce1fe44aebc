// For every page: times in the reader's own zone, and what pages that keep themselves up to date have in common.
"use strict";

const quintet = {
  // The times of a page as the reader's clock has them, with the date unless it is today.
  localTimes(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const when = new Date(time.dateTime);
      const today = when.toDateString() === new Date().toDateString();
      time.textContent = today ? when.toLocaleTimeString() : when.toLocaleString();
      time.title = when.toISOString().replace("T", " ").replace("Z", " UTC");
    }
  },

  // Make one tree like another and leave alone what is the same, so that the focus and what moves stay as they are.
  morph(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(fresh.cloneNode(true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const {name} of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const {name, value} of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
    after.forEach((node, i) => before[i] ? quintet.morph(before[i], node) : old.append(node.cloneNode(true)));
    before.slice(after.length).forEach((node) => node.remove());
  },

  // Call `look` again and again, `look()` seconds later, until it returns nothing; not while nobody sees the page. It
  // raises when the server does not answer: the page says so, and goes on with growing pauses.
  keepLooking(root, first, look) {
    let timer, pause = first, asking = false;
    const again = (seconds) => { clearTimeout(timer); timer = setTimeout(run, seconds * 1000); };
    const away = (is) => root.querySelectorAll(".away").forEach((note) => { note.hidden = !is; });
    async function run() {
      if (document.hidden || asking) return;
      asking = true;
      try {
        pause = await look();
        away(false);
      } catch {
        pause = Math.min(Math.max(pause, 0.5) * 1.5, 10);
        away(true);
      }
      asking = false;
      if (pause) again(pause);
    }
    document.addEventListener("visibilitychange", () => { if (pause && !document.hidden) again(0); });
    again(first);
  },

  // An answer within ten seconds, or an error.
  async get(address) {
    const response = await fetch(address, {cache: "no-store", signal: AbortSignal.timeout(10000)});
    if (!response.ok) throw new Error(response.status);
    return response;
  },
};

quintet.localTimes(document);
