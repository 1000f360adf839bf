/** Shows what the page sends, by standing in front of `fetch`: methods, paths and statuses, never headers or bodies. */

/**
 * Calls `onCall({ to, method, path })` for each request; the function that it returns is called with the status once
 * there is one, or with "failed".
 */
export function recordCalls(onCall) {
  const send = window.fetch;
  window.fetch = async (address, options = {}) => {
    const url = new URL(address, location.href);
    const to = url.origin === location.origin ? "shop" : "gateway";
    const answered = onCall({ to, method: options.method ?? "GET", path: url.pathname });
    try {
      const response = await send(address, options);
      answered(String(response.status));
      return response;
    } catch (error) {
      answered("failed");
      throw error;
    }
  };
}
