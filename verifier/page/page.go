// Package page is the verifier's web page: it shows a verdict or an
// appraisal's result as a chain of trust, check by check, and verifies a
// verdict's signature in the browser (Web Cryptography, Ed25519). In come GET
// requests, out go three embedded files; everything else happens in the browser,
// which talks to the same origin alone.
package page

import (
	"embed"
	"net/http"
)

//go:embed assets
var assets embed.FS

// csp allows the page's own files and requests to its origin, and nothing else
// (Content Security Policy Level 3).
const csp = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// files are what is served, by path.
var files = map[string]struct{ name, typ string }{
	"/":              {"assets/index.html", "text/html; charset=utf-8"},
	"/page/page.css": {"assets/page.css", "text/css; charset=utf-8"},
	"/page/read.js":  {"assets/read.js", "text/javascript; charset=utf-8"},
	"/page/page.js":  {"assets/page.js", "text/javascript; charset=utf-8"},
}

// Mux takes handlers for patterns, as http.ServeMux does.
type Mux interface {
	Handle(pattern string, h http.Handler)
}

// Register adds the page to a mux.
func Register(mux Mux) {
	for path := range files {
		pattern := "GET " + path
		if path == "/" {
			pattern += "{$}"
		}
		mux.Handle(pattern, Handler())
	}
}

// Handler serves the page and its files.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		b, err := assets.ReadFile(f.name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.typ)
		h.Set("Content-Security-Policy", csp)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		_, _ = w.Write(b) // an error here is the peer's hang-up
	})
}
