// Videos and pictures: loaded when they come near the window, played while they are seen, let go when they are far.

const calm = matchMedia("(prefers-reduced-motion: reduce)");

const near = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) (entry.isIntersecting ? load : release)(entry.target);
  },
  { rootMargin: "300px 0px" },
);

// Playing costs a decoder each: what only passes by while the page is scrolled does not begin, and of all that are
// seen the first ones play.
const DWELL = 250;
const MOST = 8;
const visible = new Set();
let settling = 0;

const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, intersectionRatio } of entries) {
      const video = target;
      if (intersectionRatio >= 0.5) visible.add(video);
      else if (visible.delete(video) && !video.matches(":hover, :focus")) video.pause();
    }
    settle();
  },
  { threshold: [0, 0.5] },
);

function settle() {
  clearTimeout(settling);
  settling = setTimeout(() => {
    if (calm.matches || document.hidden) return;
    const inOrder = [...visible].sort((one, other) => (one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1));
    inOrder.forEach((video, place) => {
      if (place >= MOST) {
        if (!video.matches(":hover, :focus")) video.pause();
      } else if (!video.dataset.stopped) start(video);
    });
  }, DWELL);
}

function load(media) {
  if (!media.getAttribute("src")) {
    media.src = media.dataset.source;
    if (visible.has(media)) settle();
  }
}

function release(media) {
  if (media.tagName !== "VIDEO" || !media.getAttribute("src")) return;
  media.pause();
  media.controls = false;
  media.removeAttribute("src");
  media.load();
}

function start(video) {
  // Refused where a browser allows no playing by itself: the controls are there.
  video.play().catch(() => {});
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) settle();
  else for (const video of visible) video.pause();
});

/** A player of one source; `onError` is called if it cannot be played. */
export function player(source, label, onError) {
  const media = document.createElement(source.media === "image" ? "img" : "video");
  media.dataset.source = source.url;
  media.addEventListener("error", () => media.getAttribute("src") && onError());
  media.referrerPolicy = "no-referrer";
  if (source.media === "image") {
    media.alt = label;
    media.decoding = "async";
  } else {
    Object.assign(media, { preload: "metadata", muted: true, defaultMuted: true, loop: true, playsInline: true });
    media.setAttribute("playsinline", "");
    media.setAttribute("aria-label", label);
    // Its controls are many elements, so that only a video that somebody turns to has them.
    media.addEventListener("pointerenter", () => (media.controls = true));
    // A person's pause outlasts scrolling away and back.
    media.addEventListener("pause", () => media.matches(":hover, :focus") && (media.dataset.stopped = "yes"));
    media.addEventListener("play", () => delete media.dataset.stopped);
    media.addEventListener("mouseenter", () => !media.dataset.stopped && start(media));
    media.addEventListener("mouseleave", () => calm.matches && media.pause());
    media.addEventListener("focus", () => !media.dataset.stopped && start(media));
    seen.observe(media);
  }
  near.observe(media);
  return media;
}

/** Let go of a player that leaves the page. */
export function dismiss(media) {
  near.unobserve(media);
  seen.unobserve(media);
  visible.delete(media);
  release(media);
}
