// A link from another site sends no cookie (SameSite=Strict), even if there is a session: if there is one, continue.
fetch("/login/session").then((answer) => answer.json()).then(({ user }) => {
  if (user) location.replace(document.querySelector("input[name=next]").value);
});
