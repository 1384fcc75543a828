// Shows points in time in the viewer's own zone; what the catalog and the logs have, UTC, is in the title.
"use strict";
(() => {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const form = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
  for (const each of document.querySelectorAll("time[datetime]")) {
    const at = new Date(each.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    each.title = `${each.textContent} UTC`;
    each.textContent = form.format(at);
  }
  const told = document.getElementById("zone");
  if (told && zone) told.textContent = `times in ${zone}`;
})();
