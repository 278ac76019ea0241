package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// setupFetch serves a script's directory www as $WWW. Where the address begins
// with /cut the connection ends in the middle of each file that is asked for
// from its beginning.
func setupFetch(env *testscript.Env) error {
	dir := filepath.Join(env.WorkDir, "www")
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, cut := strings.CutPrefix(r.URL.Path, "/cut")
		b, err := os.ReadFile(filepath.Join(dir, filepath.Clean("/"+path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", `"1"`)
		if cut && r.Header.Get("Range") == "" {
			w = &halfWriter{w, len(b) / 2}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}))
	env.Defer(h.Close)
	env.Setenv("WWW", h.URL)
	return nil
}

// halfWriter ends the connection after some bytes.
type halfWriter struct {
	http.ResponseWriter
	left int
}

func (h *halfWriter) Write(b []byte) (int, error) {
	if len(b) > h.left {
		if _, err := h.ResponseWriter.Write(b[:h.left]); err != nil {
			return 0, err
		}
		_ = http.NewResponseController(h.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	h.left -= len(b)
	return h.ResponseWriter.Write(b)
}
