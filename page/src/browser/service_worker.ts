// After the first load the page needs no network: all of its files are kept. The export writes their names before this.

declare const SIOCONV_FILES: string[];
declare const SIOCONV_VERSION: string;

interface LifeEvent extends Event {
  waitUntil(promise: Promise<unknown>): void;
}
interface AskedEvent extends Event {
  request: Request;
  respondWith(response: Promise<Response>): void;
}
interface Scope {
  addEventListener(type: "install" | "activate", listener: (event: LifeEvent) => void): void;
  addEventListener(type: "fetch", listener: (event: AskedEvent) => void): void;
  skipWaiting(): Promise<void>;
  clients: { claim(): Promise<void> };
  registration: { scope: string };
}

const scope = self as unknown as Scope;
// The place is in the name: two pages of one host don't remove each other's files.
const prefix = `sioconv ${scope.registration.scope} `;
const cacheName = prefix + SIOCONV_VERSION;

scope.addEventListener("install", (event) => {
  event.waitUntil(
    caches.open(cacheName).then((cache) => cache.addAll(SIOCONV_FILES)).then(() => scope.skipWaiting()),
  );
});

scope.addEventListener("activate", (event) => {
  const old = async (): Promise<void> => {
    const names = await caches.keys();
    await Promise.all(names.filter((each) => each.startsWith(prefix) && each !== cacheName).map((each) => caches.delete(each)));
    await scope.clients.claim();
  };
  event.waitUntil(old());
});

scope.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || !request.url.startsWith(scope.registration.scope)) return;
  const answer = async (): Promise<Response> => {
    const cache = await caches.open(cacheName);
    return (await cache.match(request, { ignoreSearch: true })) ?? fetch(request);
  };
  event.respondWith(answer());
});
