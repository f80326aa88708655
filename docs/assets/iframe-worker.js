/* Search, for pages opened from disk: browsers refuse to start a Worker from a file, so the search runs in a hidden
   frame instead. mkdocs-material has the same from the network (iframe-worker); nothing is fetched here. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      inside.importScripts = (...urls) =>
        urls.reduce((before, url) => before.then(() => this.load(url)), Promise.resolve())
      this.ready = this.load(url)
    }

    load(url) {
      const { document } = this.frame.contentWindow
      return new Promise((resolve, reject) => {
        const script = document.createElement("script")
        script.src = url
        script.onload = resolve
        script.onerror = () => reject(new Error(`cannot load ${url}`))
        document.body.appendChild(script)
      })
    }

    set onmessage(listener) {
      this.addEventListener("message", listener)
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
