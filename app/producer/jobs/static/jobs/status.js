// The status page: every two and a half seconds what the tiers say.
"use strict";

const live = document.getElementById("live");

quintet.keepLooking(live, 2.5, async () => {
  const status = await (await quintet.get(live.dataset.address)).json();
  const fresh = live.cloneNode(false);
  fresh.innerHTML = status.html;
  quintet.localTimes(fresh);
  quintet.morph(live, fresh);
  document.title = `${status.headline} · Quintet`;
  return 2.5;
});
