package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
)

const pathAppraise = "/cocoon.verifier.v1.VerifierService/Appraise"

// slowly begins requests from an address and leaves their bodies out.
func (s *service) slowly(t *testing.T, from, path string, n int) []net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	var out []net.Conn
	for range n {
		c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(s.http.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{", path); err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// status sends a whole request from an address.
func (s *service) status(t *testing.T, from, path, body string) (int, string) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	tr := &http.Transport{DialContext: d.DialContext}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Post(s.http.URL+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestACallerWhoSendsNothingHoldsFewPlaces begins as many requests as he may:
// his next one is turned away, and others get what they came for.
func TestACallerWhoSendsNothingHoldsFewPlaces(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) {
		o.Concurrent, o.Queue, o.Burst, o.Receive = 1, 31, 40, time.Hour
	})
	s.slowly(t, "127.0.0.2", pathAppraise, 4)
	s.slowly(t, "127.0.0.2", wire.PathMAA, 3)
	s.slowly(t, "127.0.0.2", "/cocoon.verifier.v1.VerifierService/TCBStatus", 3)
	s.metric(t, "cocoon_verifier_appraisals_pending 10")
	for _, path := range []string{pathAppraise, wire.PathMAA} {
		if status, b := s.status(t, "127.0.0.2", path, "{}"); status != http.StatusTooManyRequests || !strings.Contains(b, "too many requests of this client") {
			t.Errorf("one more of his, %s: status %d, %s", path, status, b)
		}
	}
	status, b := s.status(t, "127.0.0.3", pathAppraise, s.evidence(t))
	if status != http.StatusOK || !strings.Contains(b, `"accepted":true`) {
		t.Errorf("another caller: status %d, %.200s", status, b)
	}
	if err := s.client.Healthy(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestABodyHasToCome cuts those off that do not come, and gives their places
// back; one that keeps coming may take longer.
func TestABodyHasToCome(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.Burst, o.Receive = 40, 300*time.Millisecond })
	conns := s.slowly(t, "127.0.0.2", pathAppraise, 5)
	conns = append(conns, s.slowly(t, "127.0.0.2", wire.PathMAA, 5)...)
	for _, c := range conns {
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(c)
		if err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("it was not cut off: %q, %v", b, err)
		}
	}
	s.metric(t, "cocoon_verifier_appraisals_pending 0")
	// Longer than that, at more than the pace: it is read to its end. The time is
	// such that a busy machine may stand still for two seconds.
	s = start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.Receive = 4 * time.Second })
	c := s.slowly(t, "127.0.0.2", wire.PathMAA, 1)[0]
	for left := 999_999; left > 0; {
		n := min(left, 200_000)
		if _, err := c.Write([]byte(strings.Repeat(" ", n))); err != nil {
			t.Fatal(err)
		}
		left -= n
		time.Sleep(1100 * time.Millisecond)
	}
	b := make([]byte, 64<<10)
	n, err := c.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 400 ") {
		t.Fatalf("got %q, %v", b[:n], err)
	}
	var p wire.Problem
	_, doc, _ := strings.Cut(string(b[:n]), "\r\n\r\n")
	if err := json.Unmarshal([]byte(doc), &p); err != nil || p.Code != "request.body" || strings.Contains(doc, "timeout") {
		t.Errorf("what came in time, in pieces, was not read: %v, %s", err, doc)
	}
}
