package client

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"cocoon/internal/fault"
)

// MaxRequestBody bounds a request that the local proxy takes.
const MaxRequestBody = 16 << 20

// NewProxy returns an OpenAI-compatible endpoint for this machine: each
// request goes to the attested worker, responses stream back as they come.
// Errors before the worker's answer have OpenAI's shape, with the project's
// code in error.code.
func NewProxy(c *Client, transport http.RoundTripper, log *slog.Logger) http.Handler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	rp := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "https", Host: "enclave"})
			r.Out.Host = "enclave"
			r.Out.URL.RawQuery = "" // the worker's API has none
			// What the OpenAI client says of itself, of its user and of its
			// keys is not the worker's business; how long it waits is.
			keep := http.Header{}
			for _, name := range []string{"Content-Type", "Accept", headerTimeout} {
				if v := r.Out.Header.Get(name); v != "" {
					keep.Set(name, v)
				}
			}
			r.Out.Header = keep
		},
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			log.Warn("request failed", "path", r.URL.Path, "err", err)
			writeError(w, err)
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, MaxRequestBody)
		rp.ServeHTTP(w, r)
	}))
	mux.HandleFunc("GET /cocoon/worker", func(w http.ResponseWriter, r *http.Request) { serveWorker(w, c) })
	return localOnly(mux)
}

// localOnly refuses requests that a web page in the user's browser could have
// caused: any with an Origin, and any whose Host is not this machine's own
// (DNS rebinding). A proxy that pays must not be drivable from a web page.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
			host = host[:i]
		}
		if r.Header.Get("Origin") != "" || (host != "localhost" && host != "127.0.0.1" && host != "[::1]") {
			writeError(w, fault.New(fault.ExitRefused, "proxy.origin", "call the proxy as 127.0.0.1 or localhost, not from a web page",
				"refusing a request from another origin"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func serveWorker(w http.ResponseWriter, c *Client) {
	p := c.Peer()
	if p == nil {
		writeError(w, fault.New(fault.ExitNotReady, "client.not_connected", "send a request first", "no worker is connected"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"receipt_key":  p.Evidence.Claims.ReceiptKey,
		"type":         p.Evidence.CPU.Type,
		"model":        p.Evidence.Claims.Model,
		"verified_at":  p.VerifiedAt,
		"evidence":     json.RawMessage(p.Document),
		"verdict":      p.Verdict,
		"verdict_cell": p.VerdictCell,
	})
}

// statusOf maps exit codes to HTTP: what the caller can mend is 4xx, what
// another worker or gateway can mend is 5xx.
func statusOf(err error) int {
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return http.StatusRequestEntityTooLarge
	}
	switch fault.ExitCode(err) {
	case fault.ExitRefused, fault.ExitPolicy, fault.ExitParse:
		return http.StatusForbidden
	case fault.ExitNotReady:
		return http.StatusServiceUnavailable
	default:
		return http.StatusBadGateway
	}
}

func writeError(w http.ResponseWriter, err error) {
	code, hint := "proxy.upstream", ""
	if fs := fault.All(err); len(fs) > 0 {
		code, hint = fs[0].Code, fs[0].Remedy
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf(err))
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
		"message": err.Error(), "type": "cocoon_error", "code": code, "param": nil, "hint": hint,
	}})
}
