// A job's page: ask for the job, often at first and then less; when there is something new, show it.
"use strict";

const live = document.getElementById("live");
let pause = 0.3;

const waits = () => ["kept", "delayed", "sent", "shown"].includes(live.dataset.stage);

if (waits()) {
  quintet.keepLooking(live, pause, async () => {
    const job = await (await quintet.get(live.dataset.address)).json();
    if (job.stage !== live.dataset.stage || String(job.attempt) !== live.dataset.attempt) {
      const html = await (await quintet.get(location.href)).text();
      const page = new DOMParser().parseFromString(html, "text/html");
      const fresh = page.getElementById("live");
      quintet.localTimes(fresh);
      quintet.morph(live, fresh);
      document.title = page.title;
    }
    pause = Math.min(pause * 1.2, 3);
    return waits() && pause;
  });
}
