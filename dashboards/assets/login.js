// A link from another site brings no cookie (SameSite=Strict), though there may be a session: then go on with it.
fetch("/login/session").then((answer) => answer.json()).then(({ user }) => {
  if (user) location.replace(document.querySelector("input[name=next]").value);
});
