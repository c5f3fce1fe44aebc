// The form: a post may take a few seconds, so say that it is under way. (A second click would make no second job.)
"use strict";

const form = document.querySelector("form.job");
const button = form.querySelector("button");
const words = button.textContent;

form.addEventListener("submit", () => {
  button.textContent = "On their way…";
  form.setAttribute("aria-busy", "true");
});

// Back to this page from the next one.
addEventListener("pageshow", () => {
  button.textContent = words;
  form.removeAttribute("aria-busy");
});
