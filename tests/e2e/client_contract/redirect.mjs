// Loaded before the client: its server is the one at CORRAL_URL, not the one at the port that its code names.
const { fetch } = globalThis;
globalThis.fetch = (url, init) => fetch(url.replace('http://127.0.0.1:8001', process.env.CORRAL_URL), init);
