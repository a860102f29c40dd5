// Links within the dashboard change the address without reloading the page; a new page starts at the top.
addEventListener("click", (event) => {
  const link = event.target.closest?.("a.go");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const samePage = link.pathname === location.pathname;
  if (link.href !== location.href) history.pushState({}, "", link.href);
  dispatchEvent(new PopStateEvent("popstate")); // dcc.Location listens for this event
  if (!samePage) scrollTo(0, 0);
});

// When the session has ended, go to the login page, which leads back here.
const ask = window.fetch;
window.fetch = async (...request) => {
  const answer = await ask(...request);
  if (answer.status === 401) location.assign(`/login?${new URLSearchParams({ next: location.pathname + location.search })}`);
  return answer;
};
