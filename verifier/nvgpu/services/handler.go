package services

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu/ocsp"
)

// maxServed bounds the requests that Handler works on at a time: more are
// told to wait, so that a guest cannot make the host ask for all of them.
const maxServed = 32

// Handler serves the client's cache as NVIDIA's services answer: GET
// /v1/rim/ids, GET /v1/rim/ID, POST / and POST /ocsp. Whoever asks it trusts
// it no more than the services: everything is verified where it is used.
func (c *Client) Handler() http.Handler {
	h := &handler{c: c, slots: make(chan struct{}, maxServed)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/rim/ids", h.ids)
	mux.HandleFunc("GET /v1/rim/{id}", h.rim)
	mux.HandleFunc("POST /{$}", h.ocsp)
	mux.HandleFunc("POST /ocsp", h.ocsp)
	return h.bounded(mux)
}

type handler struct {
	c     *Client
	slots chan struct{}
}

func (h *handler) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			h.write(w, http.StatusServiceUnavailable, map[string]string{"message": "BUSY"})
		}
	})
}

// age says how old an answer is, in seconds (RFC 9111, section 5.1), and
// a stale one says so.
func (h *handler) age(w http.ResponseWriter, fetched time.Time, stale bool) {
	age := max(0, h.c.opts.Clock().Sub(fetched))
	w.Header().Set("Age", strconv.FormatInt(int64(age/time.Second), 10))
	if stale {
		w.Header().Set("Cocoon-Stale", "true")
	}
}

func (h *handler) ids(w http.ResponseWriter, r *http.Request) {
	ids, err := h.c.IDs(r.Context())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.age(w, ids.Fetched, ids.Stale)
	h.write(w, http.StatusOK, map[string]any{"ids": ids.IDs, "last_updated": ids.Fetched.UTC()})
}

func (h *handler) rim(w http.ResponseWriter, r *http.Request) {
	m, err := h.c.RIM(r.Context(), r.PathValue("id"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	sum := sha256.Sum256(m.Raw)
	h.age(w, m.Fetched, m.Stale)
	h.write(w, http.StatusOK, rimAnswer{ID: m.ID, RIM: m.Raw, SHA256: hex.EncodeToString(sum[:]), Format: formatTCG,
		LastUpdated: m.Fetched.UTC().Format(time.RFC3339)})
}

func (h *handler) ocsp(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Content-Type") != ocsp.RequestType {
		h.write(w, http.StatusUnsupportedMediaType, map[string]string{"message": "WANT " + ocsp.RequestType})
		return
	}
	der, err := io.ReadAll(http.MaxBytesReader(w, r.Body, ocsp.MaxRequest))
	if err != nil {
		h.write(w, http.StatusRequestEntityTooLarge, map[string]string{"message": "TOO_LARGE"})
		return
	}
	raw, _, err := h.c.rawOCSP(r.Context(), der, nil)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", ocsp.ResponseType)
	if _, err := w.Write(raw); err != nil {
		h.c.log.LogAttrs(r.Context(), slog.LevelDebug, "writing an answer", slog.Any("error", err))
	}
}

// fail passes an error on in the service's own shape; the code tells a
// cocoon client more.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, code := statusOf(err), "rim.service"
	if fs := fault.All(err); len(fs) > 0 {
		code = fs[0].Code
	}
	h.c.log.LogAttrs(r.Context(), slog.LevelInfo, "request not answered", slog.String("path", r.URL.Path), slog.Int("status", status), slog.Any("error", err))
	msg := "UPSTREAM"
	if status == http.StatusNotFound {
		msg = "RIM_NOT_FOUND"
	}
	h.write(w, status, map[string]string{"message": msg, "code": code})
}

func (h *handler) write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		h.c.log.Error("encoding an answer", "error", err)
		status, b = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client has gone
}
