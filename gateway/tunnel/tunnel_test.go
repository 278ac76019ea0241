package tunnel

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/yamux"

	"cocoon/measurements/digest"
)

func frame(doc string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(doc))), doc...)
}

func goodHello(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writeFrame(&b, Hello{ReceiptKey: digest.Sum256([]byte("key")), Model: "m", Models: []Offer{{"m", 7}, {"n", 0}}, Signature: make([]byte, ed25519.SignatureSize)}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFrameIsReadToItsEndAndNoFurther(t *testing.T) {
	r := bytes.NewReader(append(goodHello(t), "rest"...))
	var h Hello
	if err := readFrame(r, &h); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || len(h.Models) != 2 || h.Models[0] != (Offer{"m", 7}) || string(rest) != "rest" {
		t.Errorf("%+v, rest %q, %v", h, rest, err)
	}
}

func TestMalformedFramesAreRefused(t *testing.T) {
	good := string(goodHello(t)[2:])
	for name, b := range map[string][]byte{
		"nothing":          nil,
		"half a length":    {0},
		"cut short":        goodHello(t)[:20],
		"empty":            frame(""),
		"over the limit":   frame(`{"model":"` + strings.Repeat("x", maxFrame) + `"}`),
		"no object":        frame("[]"),
		"null":             frame("null"),
		"trailing data":    frame(good + "{}"),
		"an unknown field": frame(strings.Replace(good, `{"model"`, `{"extra":1,"model"`, 1)),
		"a field twice":    frame(strings.Replace(good, `{"model"`, `{"model":"m","model"`, 1)),
		"white space":      frame(strings.Replace(good, ":", ": ", 1)),
		"a short key":      frame(strings.Replace(good, digest.Sum256([]byte("key")).String(), "00", 1)),
	} {
		var h Hello
		if err := readFrame(bytes.NewReader(b), &h); err == nil {
			t.Errorf("%s: accepted as %+v", name, h)
		}
	}
}

func TestFrameThatIsTooLongIsNotWritten(t *testing.T) {
	var b bytes.Buffer
	if err := writeFrame(&b, Hello{Model: strings.Repeat("x", maxFrame)}); err == nil || b.Len() != 0 {
		t.Errorf("%v, %d bytes", err, b.Len())
	}
}

func TestWhatAGatewayDoesNotList(t *testing.T) {
	for name, c := range map[string]struct {
		h    Hello
		good bool
	}{
		"two models":       {Hello{Model: "m", Models: []Offer{{"m", 1}, {"n", 0}}}, true},
		"one of version 1": {Hello{Model: "m"}, true},
		"none":             {Hello{Model: "m", Models: []Offer{}}, false},
		"too many":         {Hello{Models: make([]Offer, maxModels+1)}, false},
		"a long name":      {Hello{Model: "m", Models: []Offer{{"m", 1}, {strings.Repeat("x", 65), 1}}}, false},
		"a long old one":   {Hello{Model: strings.Repeat("x", 65)}, false},
		"markup":           {Hello{Model: "<m>"}, false},
		"an empty name":    {Hello{Model: "m", Models: []Offer{{"m", 1}, {"", 1}}}, false},
		"two firsts":       {Hello{Model: "n", Models: []Offer{{"m", 1}, {"n", 1}}}, false},
	} {
		if why := c.h.check(); (why == "") != c.good || c.good && c.h.Models[0].Name != "m" {
			t.Errorf("%s: %q, models %v", name, why, c.h.Models)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(goodHello(f))
	f.Add(frame("null"))
	f.Add([]byte{0xff, 0xff, '{'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Hello
		if readFrame(bytes.NewReader(b), &h) != nil {
			return
		}
		// Absent and empty lists are the same, so the second time decides.
		var out, again bytes.Buffer
		if err := writeFrame(&out, h); err != nil {
			t.Fatal(err)
		}
		var h2 Hello
		if err := readFrame(bytes.NewReader(out.Bytes()), &h2); err != nil {
			t.Fatalf("%q became %q: %v", b, out.Bytes(), err)
		}
		if err := writeFrame(&again, h2); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
			t.Fatalf("%q became %q and %q, %v", b, out.Bytes(), again.Bytes(), err)
		}
	})
}

// oldGateway speaks version 1 alone, and refuses fields that version does not
// know.
func oldGateway(t *testing.T, hello chan<- map[string]any) string {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(nil, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{ALPN1, "http/1.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		var h map[string]any
		if readFrame(c, &h) != nil || writeFrame(c, Reply{}) != nil {
			return
		}
		hello <- h
		sess, err := yamux.Client(c, Config())
		if err != nil {
			return
		}
		<-sess.CloseChan()
	}()
	return ln.Addr().String()
}

func TestGatewayOfVersion1HearsNothingNew(t *testing.T) {
	hello := make(chan map[string]any, 1)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	tun, err := Dial(t.Context(), oldGateway(t, hello), key, State{Models: []Offer{{Name: "m", Price: 7}}, Draining: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	if h := <-hello; len(h) != 3 {
		t.Errorf("hello %v, want receipt_key, model and signature alone", h)
	}
	for _, draining := range []bool{false, true} {
		if err := tun.Notify(draining); err != nil {
			t.Error(err)
		}
	}
	if n := tun.sess.NumStreams(); n != 0 {
		t.Errorf("%d streams were opened, which this gateway never accepts", n)
	}
}

// sessions returns both ends of a tunnel.
func sessions(t *testing.T) (worker, gateway *yamux.Session) {
	t.Helper()
	a, b := net.Pipe()
	worker, err := yamux.Server(a, Config())
	if err != nil {
		t.Fatal(err)
	}
	gateway, err = yamux.Client(b, Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { worker.Close(); gateway.Close() })
	return worker, gateway
}

func TestReplayedNoticeIsNone(t *testing.T) {
	worker, gateway := sessions(t)
	all := make(chan struct{})
	go func() {
		s, err := worker.OpenStream()
		if err != nil {
			t.Error(err)
			return
		}
		for _, n := range []Notice{{true, 1}, {false, 2}, {true, 1}, {true, 2}, {true, 0}, {false, 3}, {true, 3}, {true, 9}} {
			if err := writeFrame(s, n); err != nil {
				t.Error(err)
			}
		}
		<-all
		worker.Close()
	}()
	var heard []bool
	if err := Notices(gateway, func(draining bool) {
		if heard = append(heard, draining); len(heard) == 4 {
			close(all)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if want := []bool{true, false, false, true}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
}

// TestWorkerOpensNoFurtherStreams: each would have a window of the gateway's
// memory, which no client has asked for.
func TestWorkerOpensNoFurtherStreams(t *testing.T) {
	for name, c := range map[string]struct {
		streams int
		heard   func(bool)
	}{
		"version 1": {1, nil}, "version 2": {2, func(bool) {}},
	} {
		worker, gateway := sessions(t)
		for range c.streams {
			if _, err := worker.OpenStream(); err != nil {
				t.Fatal(err)
			}
		}
		if err := Notices(gateway, c.heard); err == nil {
			t.Errorf("%s: a worker with %d streams goes on", name, c.streams)
		}
	}
}

// TestWorkerThatHasNoMoreToSayIsWatched: it may end its stream, and open no other.
func TestWorkerThatHasNoMoreToSayIsWatched(t *testing.T) {
	worker, gateway := sessions(t)
	s, err := worker.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFrame(s, Notice{true, 1}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := Notices(gateway, func(bool) {
		_, _ = worker.OpenStream() // the test may be over before it returns
	}); err == nil {
		t.Error("a second stream is open")
	}
}

func FuzzNotice(f *testing.F) {
	f.Add(frame(`{"draining":true,"seq":1}`))
	f.Add(frame(`{"draining":true,"seq":1e3}`))
	f.Add(frame("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var n Notice
		if readFrame(bytes.NewReader(b), &n) != nil {
			return
		}
		var out bytes.Buffer
		if err := writeFrame(&out, n); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, out.Bytes()) {
			t.Fatalf("%q became %q", b, out.Bytes())
		}
	})
}
