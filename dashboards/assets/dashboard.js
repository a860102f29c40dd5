// Links within the dashboard change the address without loading the page anew; what is new is brought into view.
addEventListener("click", (event) => {
  const link = event.target.closest?.("a.go");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const samePage = link.pathname === location.pathname;
  if (link.href !== location.href) history.pushState({}, "", link.href);
  dispatchEvent(new PopStateEvent("popstate")); // what dcc.Location listens to
  if (!samePage) scrollTo(0, 0);
});

// A session that has ended leads to the login page, and back.
const ask = window.fetch;
window.fetch = async (...request) => {
  const answer = await ask(...request);
  if (answer.status === 401) location.assign(`/login?${new URLSearchParams({ next: location.pathname + location.search })}`);
  return answer;
};
