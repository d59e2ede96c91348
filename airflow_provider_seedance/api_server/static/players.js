// Videos and images: loaded near the viewport, played while visible, unloaded when far away and many are loaded.

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

// A video that is loaded again may be downloaded again, and a service may count that: so the latest ones stay loaded.
const MAX_LOADED = 24;
const nearby = new Set();
const loaded = new Set();

const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        nearby.add(target);
        load(target);
      } else nearby.delete(target);
    }
    for (const media of loaded) if (loaded.size > MAX_LOADED && !nearby.has(media)) release(media);
  },
  { rootMargin: "300px 0px" },
);

// Each playing video uses a decoder: a video that scrolls by does not start, and of the visible ones the first play.
const DWELL_MS = 250;
const MAX_PLAYING = 8;
const visible = new Set();
let timer = 0;

const inView = new IntersectionObserver(
  (entries) => {
    for (const { target, intersectionRatio } of entries) {
      const video = target;
      if (intersectionRatio >= 0.5) visible.add(video);
      else if (visible.delete(video) && !video.matches(":hover, :focus")) video.pause();
    }
    playVisible();
  },
  { threshold: [0, 0.5] },
);

function playVisible() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (reducedMotion.matches || document.hidden) return;
    const inOrder = [...visible].sort((one, other) => (one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1));
    inOrder.forEach((video, place) => {
      if (place >= MAX_PLAYING) {
        if (!video.matches(":hover, :focus")) video.pause();
      } else if (!video.dataset.stopped) start(video);
    });
  }, DWELL_MS);
}

function load(media) {
  loaded.delete(media);
  loaded.add(media);
  if (!media.getAttribute("src")) {
    media.src = media.dataset.source;
    if (visible.has(media)) playVisible();
  }
}

function release(media) {
  loaded.delete(media);
  if (media.tagName !== "VIDEO" || !media.getAttribute("src")) return;
  media.pause();
  media.controls = false;
  media.removeAttribute("src");
  media.load();
}

function start(video) {
  // A browser without autoplay refuses: the controls remain.
  video.play().catch(() => {});
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) playVisible();
  else for (const video of visible) video.pause();
});

/** A player of one source; `onError` is called if it cannot be played, with whether this browser lacks the codec. */
export function player(source, label, onError) {
  const media = document.createElement(source.media === "image" ? "img" : "video");
  // Safari shows a frame before a video plays only if it is to begin there. A service may count each request for a part.
  media.dataset.source = source.stored && source.media !== "image" ? `${source.url}#t=0.1` : source.url;
  media.addEventListener("error", () => media.getAttribute("src") && onError(lacksCodec(media.error)));
  media.referrerPolicy = "no-referrer";
  if (source.media === "image") {
    media.alt = label;
    media.decoding = "async";
  } else {
    Object.assign(media, { preload: "metadata", muted: true, defaultMuted: true, loop: true, playsInline: true });
    media.setAttribute("playsinline", "");
    media.setAttribute("aria-label", label);
    // Controls are many elements, so only a video under the pointer or in focus has them.
    media.addEventListener("pointerenter", () => (media.controls = true));
    // A pause by the user outlasts scrolling away and back.
    media.addEventListener("pause", () => media.matches(":hover, :focus") && (media.dataset.stopped = "yes"));
    media.addEventListener("play", () => delete media.dataset.stopped);
    media.addEventListener("mouseenter", () => !media.dataset.stopped && start(media));
    media.addEventListener("mouseleave", () => reducedMotion.matches && media.pause());
    media.addEventListener("focus", () => !media.dataset.stopped && start(media));
    // Of a file whose sound it can decode, a browser plays the sound only.
    media.addEventListener("loadedmetadata", () => media.videoWidth === 0 && onError(true));
    inView.observe(media);
  }
  near.observe(media);
  return media;
}

function lacksCodec(error) {
  // Chromium has the same code for a file that it cannot read; the message tells.
  return error?.code === MediaError.MEDIA_ERR_DECODE || /NO_SUPPORTED_STREAMS|DECODER/.test(error?.message ?? "");
}

/** Release a player that leaves the page. */
export function dismiss(media) {
  near.unobserve(media);
  inView.unobserve(media);
  visible.delete(media);
  nearby.delete(media);
  release(media);
}
