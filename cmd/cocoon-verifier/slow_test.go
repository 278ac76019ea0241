package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"cocoon/verifier/wire"
)

// TestSlowClientsAreCutOff holds a connection with half a request, in every
// phase, and is cut off; meanwhile the service answers others.
func TestSlowClientsAreCutOff(t *testing.T) {
	s := started(t, install(t, func(m map[string]any) {
		m["limits"] = map[string]any{"concurrent": 1, "queue": 1, "burst": 1000, "per_second": 1000}
	}))
	srv := httpServer(s, patience{header: 200 * time.Millisecond, read: 400 * time.Millisecond, write: time.Second, idle: 200 * time.Millisecond}, slog.New(slog.DiscardHandler))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(ln)
	defer srv.Close()
	// Who is not slow is served. On a busy machine this test may be slow itself,
	// and asks again, on a connection of its own.
	other := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(t *testing.T, method, path, body string) int {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+ln.Addr().String()+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := other.Do(req)
			if err == nil {
				resp.Body.Close()
				return resp.StatusCode
			}
			if time.Now().After(end) {
				t.Fatalf("%s %s: %v", method, path, err)
			}
		}
	}
	const appraise = "POST /cocoon.verifier.v1.VerifierService/Appraise HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n"
	for name, sent := range map[string]string{
		"nothing at all":        "",
		"half a line":           "POST /cocoon.ver",
		"headers without end":   appraise + "X-A: b\r\n",
		"a body that stops":     appraise + "\r\n{\"evidence\":\"",
		"another body":          appraise + "\r\n{\"evidence\":\"" + strings.Repeat("A", 4096),
		"a third body":          appraise + "\r\n",
		"an idle connection":    "GET " + wire.PathHealth + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"headers without limit": appraise + "X-A: " + strings.Repeat("b", 2*maxHeader) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = fmt.Fprint(conn, sent) // it may be cut off on its way
			if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			ask(t, "GET", wire.PathHealth, "")
			// It ends: with an answer or without, but not at our deadline.
			if b, err := io.ReadAll(conn); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Errorf("it was not cut off: %q, %v", b, err)
			}
		})
	}
	// Every place in the queue is free again.
	if status := ask(t, "POST", "/cocoon.verifier.v1.VerifierService/Appraise", `{"evidence":"e30="}`); status != http.StatusBadRequest {
		t.Errorf("afterwards: status %d, want %d", status, http.StatusBadRequest)
	}
}
