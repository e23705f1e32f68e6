"use strict";
(() => {
  const cards = [...document.querySelectorAll("#cards > .card")];
  const search = document.getElementById("search");
  if (!search) return;
  const modality = document.getElementById("modality");
  const status = document.getElementById("status");
  const shown = document.getElementById("shown");
  const nothing = document.getElementById("nothing");
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const card of cards) {
      const { text, modality: kind, status: state } = card.dataset;
      const fits = words.every((word) => text.includes(word)) && (!modality.value || kind === modality.value) && (!status.value || state === status.value);
      card.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${cards.length}`;
    nothing.hidden = count > 0;
  };
  search.addEventListener("input", apply);
  for (const control of [modality, status]) control.addEventListener("change", apply);
  search.form.addEventListener("submit", (event) => event.preventDefault());
})();
