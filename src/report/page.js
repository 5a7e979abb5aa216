"use strict";
// Which queries of a gallery are shown. Without this script all are.
for (const form of document.querySelectorAll("form.filters")) {
  const queries = [...document.querySelectorAll(`#queries-${form.dataset.of} > li`)];
  const told = form.querySelector("output");
  const passes = {
    all: () => true,
    hit: (ranks) => ranks.some((rank) => rank === 1),
    miss: (ranks) => ranks.some((rank) => rank > 1),
    far: (ranks) => ranks.some((rank) => rank > 5),
    split: (ranks) => ranks.some((rank) => rank === 1) && ranks.some((rank) => rank > 1),
  };
  const filter = () => {
    const outcome = form.querySelector("input[type=radio]:checked").value;
    const direction = form.elements.direction.value;
    const words = form.elements.said.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const query of queries) {
      const ranks = query.dataset.ranks.split(" ").filter(Boolean).map(Number);
      const text = [...query.querySelectorAll("h4, .sentences")].map((part) => part.textContent.toLowerCase()).join(" ");
      const stays = passes[outcome](ranks) && (!direction || query.dataset.direction === direction) && words.every((word) => text.includes(word));
      query.hidden = !stays;
      shown += stays ? 1 : 0;
    }
    told.value = `${shown} of ${queries.length}`;
  };
  for (const event of ["input", "change"]) form.addEventListener(event, filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  // A browser may have kept what was chosen before.
  filter();
}
