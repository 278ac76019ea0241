package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"cocoon/gateway/tunnel"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// listed is what GET /v1/workers says: who may be chosen, and who drains.
func listed(t *testing.T, addr string) (workers, draining []digest.SHA256) {
	t.Helper()
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer hc.CloseIdleConnections()
	resp, err := hc.Get("https://" + addr + "/v1/workers")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct{ Workers, Draining []Worker }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	for _, w := range list.Workers {
		workers = append(workers, w.ReceiptKey)
	}
	for _, w := range list.Draining {
		draining = append(draining, w.ReceiptKey)
	}
	return workers, draining
}

// awaitListed waits until the gateway lists exactly these.
func awaitListed(t *testing.T, addr string, workers, draining []digest.SHA256) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		w, d := listed(t, addr)
		if slices.Equal(w, workers) && slices.Equal(d, draining) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("workers %v, draining %v; want %v and %v", w, d, workers, draining)
		}
	}
}

func join(t *testing.T, addr string, key ed25519.PrivateKey, state tunnel.State) *tunnel.Tunnel {
	t.Helper()
	tun, err := tunnel.Dial(context.Background(), addr, key, state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Close() })
	return tun
}

func notify(t *testing.T, tun *tunnel.Tunnel, draining bool) {
	t.Helper()
	if err := tun.Notify(draining); err != nil {
		t.Fatal(err)
	}
}

func TestDrainingWorkerIsChosenNoMoreAndItsStreamsFinish(t *testing.T) {
	_, addr := start(t, Options{})
	key, id := newWorkerKey(t)
	tun := join(t, addr, key, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}})
	go echo(tun)
	awaitListed(t, addr, []digest.SHA256{id}, nil)
	c, br, resp := connectTo(t, addr, id.String()+":443")
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	notify(t, tun, true)
	awaitListed(t, addr, nil, []digest.SHA256{id})
	echo := func(c io.Writer, r io.Reader, word string) {
		t.Helper()
		got := make([]byte, len(word))
		if _, err := io.WriteString(c, word); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, got); err != nil || string(got) != word {
			t.Errorf("%q, %v; want %q", got, err, word)
		}
	}
	echo(c, br, "still running")
	// Receipts and vouchers of what ran come on new connections.
	c2, br2, resp := connectTo(t, addr, id.String()+":443")
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	echo(c2, br2, "a voucher")
	notify(t, tun, false)
	awaitListed(t, addr, []digest.SHA256{id}, nil)
}

func TestLostNoticeIsMadeUpForByTheNextHello(t *testing.T) {
	_, addr := start(t, Options{})
	key, id := newWorkerKey(t)
	first := join(t, addr, key, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}})
	awaitListed(t, addr, []digest.SHA256{id}, nil)
	first.Close() // the line is cut before the worker could say anything
	if err := first.Notify(true); err == nil {
		t.Error("a notice on a closed tunnel is reported as sent")
	}
	second := join(t, addr, key, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}, Draining: true})
	awaitListed(t, addr, nil, []digest.SHA256{id})
	// What the old tunnel's end brings late changes nothing for the new one.
	notify(t, second, false)
	awaitListed(t, addr, []digest.SHA256{id}, nil)
}

func TestNoticeSpeaksForTheTunnelsOwnKeyAlone(t *testing.T) {
	_, addr := start(t, Options{})
	key, id := newWorkerKey(t)
	other, otherID := newWorkerKey(t)
	join(t, addr, key, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}})
	tun := join(t, addr, other, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}})
	notify(t, tun, true)
	awaitListed(t, addr, []digest.SHA256{id}, []digest.SHA256{otherID})
	tun.Close()
	awaitListed(t, addr, []digest.SHA256{id}, nil)
}

// raw greets the gateway as version says, and returns the session under the
// tunnel.
func raw(t *testing.T, addr, version string, key ed25519.PrivateKey) *yamux.Session {
	t.Helper()
	c := dialTLS(t, addr, version)
	cs := c.ConnectionState()
	if cs.NegotiatedProtocol != version {
		t.Fatalf("the gateway speaks %q, not %q", cs.NegotiatedProtocol, version)
	}
	exp, err := cs.ExportKeyingMaterial("EXPORTER-cocoon-tunnel", nil, 32)
	if err != nil {
		t.Fatal(err)
	}
	send(t, c, tunnel.Hello{
		ReceiptKey: digest.SHA256(key.Public().(ed25519.PublicKey)), Model: "m",
		Signature: ed25519.Sign(key, append([]byte("cocoon-tunnel-v1"), exp...)),
	})
	var n [2]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(n[:]))); err != nil {
		t.Fatal(err)
	}
	sess, err := yamux.Server(c, tunnel.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sess.Close() })
	return sess
}

func send(t *testing.T, w io.Writer, v any) {
	t.Helper()
	if _, err := w.Write(frame(t, v)); err != nil {
		t.Fatal(err)
	}
}

func frame(t *testing.T, v any) []byte {
	t.Helper()
	b, err := jcs.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func TestMalformedNoticeEndsTheTunnel(t *testing.T) {
	g, addr := start(t, Options{})
	for name, doc := range map[string]any{
		"another worker's key": map[string]any{"draining": true, "receipt_key": digest.Sum256([]byte("other")), "seq": 1},
		"no number":            map[string]any{"draining": true, "seq": "1"},
		"nothing":              nil,
	} {
		key, _ := newWorkerKey(t)
		sess := raw(t, addr, tunnel.ALPN2, key)
		waitWorkers(t, g, 1)
		s, err := sess.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		// The tunnel may end before the write has returned.
		_, _ = s.Write(frame(t, doc))
		select {
		case <-sess.CloseChan():
		case <-time.After(time.Minute):
			t.Errorf("%s: the tunnel goes on", name)
		}
		waitWorkers(t, g, 0)
	}
}

func TestWorkerOfVersion1ServesAsBefore(t *testing.T) {
	_, addr := start(t, Options{})
	key, id := newWorkerKey(t)
	sess := raw(t, addr, tunnel.ALPN1, key)
	go func() {
		for {
			s, err := sess.AcceptStream()
			if err != nil {
				return
			}
			go func() { defer s.Close(); io.Copy(s, s) }()
		}
	}()
	awaitListed(t, addr, []digest.SHA256{id}, nil)
	c, br, resp := connectTo(t, addr, id.String()+":443")
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	io.WriteString(c, "ping")
	got := make([]byte, 4)
	if _, err := io.ReadFull(br, got); err != nil || string(got) != "ping" {
		t.Errorf("%q, %v", got, err)
	}
}
