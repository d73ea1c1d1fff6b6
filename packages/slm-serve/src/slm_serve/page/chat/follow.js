const NEAR_END = 80; // pixels

/** Keeps the end of the page in view while text is added, unless the user scrolls away from it. */
class Follower {
  constructor() {
    this.isAtEnd = true;
    addEventListener("scroll", () => (this.isAtEnd = this.distance < NEAR_END), { passive: true });
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
    if (this.isAtEnd && this.distance > 0) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  }
}

export const follow = new Follower();
