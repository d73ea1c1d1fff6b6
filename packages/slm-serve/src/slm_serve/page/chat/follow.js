const NEAR_END = 80; // pixels

/** Keeps the end of the page in view while text is added, unless the user scrolls away from it. */
class Follower {
  constructor() {
    this.isAtEnd = true;
    this.position = 0;
    addEventListener("scroll", () => this.scrolled(), { passive: true });
    addEventListener("resize", () => this.scroll()); // such as when the keyboard of a phone opens
  }

  /** Only the user scrolls upwards; the end also moves away when text is added. */
  scrolled() {
    const isNear = this.distance < NEAR_END;
    if (isNear || scrollY < this.position) this.isAtEnd = isNear;
    this.position = scrollY;
  }

  get distance() {
    return document.documentElement.scrollHeight - innerHeight - scrollY;
  }

  /** Scroll to the end once the page is laid out. */
  start() {
    this.isAtEnd = true;
    requestAnimationFrame(() => this.scroll());
  }

  scroll() {
    const isShown = document.body.dataset.mode === "chat";
    if (isShown && this.isAtEnd && this.distance > 0) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  }
}

export const follow = new Follower();
