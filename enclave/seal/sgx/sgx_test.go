package sgx

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"cocoon/enclave/seal"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/collateral"
	"cocoon/verifier/evidence"
	"cocoon/verifier/quote"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
)

var (
	config = digest.Sum256([]byte("config"))
	key    = bytes.Repeat([]byte{7}, 96)
)

// world is a host with a simulated sealing enclave and a TD, both under test
// authorities. No SGX hardware is behind it: the enclave's sealing keys are an
// HMAC of its identity under a name that stands for the CPU's secret.
type world struct {
	t       testing.TB
	pki     *tdxtest.PKI
	td, sgx tdxtest.Case
	cpu     string
	policy  Server
	mitm    func(which string, msg []byte) []byte // changes what the host carries
	away    bool
	served  chan error
}

func newWorld(t testing.TB) *world {
	t.Helper()
	pki, err := tdxtest.New("seal")
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, pki: pki, td: tdxtest.StatusTDX(tcb.UpToDate), sgx: tdxtest.StatusSGX(tcb.UpToDate), cpu: "cpu", served: make(chan error, 16)}
}

// Quote is the enclave's.
func (w *world) Quote(data [64]byte) ([]byte, error) {
	c := w.sgx
	c.Quote.Enclave.ReportData = data
	return w.pki.Quote(&c.Quote)
}

// NewSealKey is EGETKEY for signer and product: info has the enclave's version.
func (w *world) NewSealKey() (key, info []byte, err error) {
	info = keyInfo(policySigner, w.sgx.Quote.Enclave.ISVSVN)
	copy(info[atKeyID:], "key id")
	key, err = w.SealKey(info)
	return key, info, err
}

// keyInfo is a key request.
func keyInfo(policy, svn uint16) []byte {
	info := make([]byte, KeyInfoSize)
	le := binary.LittleEndian
	le.PutUint16(info[atKeyName:], keySeal)
	le.PutUint16(info[atKeyPolicy:], policy)
	le.PutUint16(info[atISVSVN:], svn)
	le.PutUint64(info[atFlags:], 0xff0000000000000b)
	return info
}

// SealKey gives keys of the enclave's own and of lower versions: as EGETKEY,
// whatever is asked for, with or without the signer.
func (w *world) SealKey(info []byte) ([]byte, error) {
	e := &w.sgx.Quote.Enclave
	le := binary.LittleEndian
	if len(info) != KeyInfoSize || le.Uint16(info[atISVSVN:]) > e.ISVSVN {
		return nil, errors.New("EGETKEY: SGX_INVALID_ISVSVN")
	}
	h := hmac.New(sha256.New, []byte(w.cpu))
	if le.Uint16(info[atKeyPolicy:])&policySigner != 0 {
		h.Write(e.MRSigner[:])
	}
	h.Write([]byte{byte(e.ISVProdID), e.Attributes[0] & byte(le.Uint64(info[atFlags:]))})
	h.Write(info)
	return h.Sum(nil)[:16], nil
}

// collateral is what the host fetches.
func (w *world) collateral(q []byte) (*collateral.Raw, error) {
	c := &w.sgx.Collateral
	if binary.LittleEndian.Uint32(q[4:]) == quote.TEETDX {
		c = &w.td.Collateral
	}
	return w.pki.Collateral(c)
}

func now() time.Time { return tdxtest.Now }

// dial reaches the enclave over the host.
func (w *world) dial(context.Context) (net.Conn, error) {
	if w.away {
		return nil, errors.New("connection refused")
	}
	td, host := net.Pipe()
	far, enclave := net.Pipe()
	go w.carry("ask", far, host)
	go w.carry("answer", host, far)
	go func() {
		s := w.policy
		s.Enclave, s.Collateral, s.Roots, s.Clock = w, w.collateral, w.pki.Roots(), now
		err := s.Serve(enclave)
		enclave.Close()
		w.served <- err
	}()
	return td, nil
}

// carry carries frames, through the host's hands.
func (w *world) carry(which string, to io.WriteCloser, from io.Reader) {
	defer to.Close()
	for n := 0; ; n++ {
		var size [4]byte
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return
		}
		msg := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(from, msg); err != nil {
			return
		}
		if w.mitm != nil && n == 1 { // hello and challenge go first
			if msg = w.mitm(which, msg); msg == nil {
				return
			}
		}
		if _, err := to.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)); err != nil {
			return
		}
	}
}

func (w *world) quoteTD(_ context.Context, data [64]byte) ([]byte, error) {
	c := w.td
	c.Quote.TD.ReportData = data
	return w.pki.Quote(&c.Quote)
}

func (w *world) sealer() *Sealer {
	e := tdxtest.DefaultSGX(3).Enclave
	return New(Options{Dial: w.dial, Quote: w.quoteTD, Config: config, Roots: w.pki.Roots(), Clock: now,
		Enclave: evidence.SealingEnclave{Signer: e.MRSigner, Product: e.ISVProdID, MinSVN: e.ISVSVN}})
}

func (w *world) seal() []byte {
	w.t.Helper()
	blob, err := w.sealer().Seal(key)
	if err != nil {
		w.t.Fatal(err)
	}
	return blob
}

func TestAKeyComesBackToTheSameTDAlone(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world, *Sealer)
		want   string // "": the key; "refused": not released; else a fault's code
	}{
		"the same TD, booted again":         {func(*world, *Sealer) {}, ""},
		"with more memory":                  {func(w *world, _ *Sealer) { w.td.Quote.TD.RTMR[0][0] ^= 1 }, ""},
		"a later version of the enclave":    {func(w *world, _ *Sealer) { w.sgx.Quote.Enclave.ISVSVN++ }, ""},
		"another firmware":                  {func(w *world, _ *Sealer) { w.td.Quote.TD.MRTD[0] ^= 1 }, "refused"},
		"another kernel":                    {func(w *world, _ *Sealer) { w.td.Quote.TD.RTMR[1][0] ^= 1 }, "refused"},
		"another command line":              {func(w *world, _ *Sealer) { w.td.Quote.TD.RTMR[2][0] ^= 1 }, "refused"},
		"other runtime events":              {func(w *world, _ *Sealer) { w.td.Quote.TD.RTMR[3][0] ^= 1 }, "refused"},
		"launched for another config":       {func(w *world, _ *Sealer) { w.td.Quote.TD.MRConfigID[0] ^= 1 }, "refused"},
		"another owner":                     {func(w *world, _ *Sealer) { w.td.Quote.TD.MROwner[0] ^= 1 }, "refused"},
		"other attributes":                  {func(w *world, _ *Sealer) { w.td.Quote.TD.Attributes[3] ^= 0x40 }, "refused"},
		"another config":                    {func(_ *world, s *Sealer) { s.o.Config[0] ^= 1 }, "refused"},
		"another CPU":                       {func(w *world, _ *Sealer) { w.cpu = "other" }, "refused"},
		"a TD under debug":                  {func(w *world, _ *Sealer) { w.td.Quote.TD.Attributes[0] = 1 }, CodeDenied},
		"a TD on an old platform":           {func(w *world, _ *Sealer) { w.td.Collateral.Info.Levels[0].Status = tcb.OutOfDate }, CodeDenied},
		"an enclave of another signer":      {func(w *world, _ *Sealer) { w.sgx.Quote.Enclave.MRSigner[0] ^= 1 }, CodeEnclave},
		"another enclave of the signer":     {func(w *world, _ *Sealer) { w.sgx.Quote.Enclave.ISVProdID++ }, CodeEnclave},
		"an older enclave than wanted":      {func(_ *world, s *Sealer) { s.o.Enclave.MinSVN++ }, "refused"},
		"an earlier version of the enclave": {func(w *world, s *Sealer) { w.sgx.Quote.Enclave.ISVSVN--; s.o.Enclave.MinSVN-- }, CodeDenied},
		"an enclave under debug":            {func(w *world, _ *Sealer) { w.sgx.Quote.Enclave.Attributes[0] |= 2 }, CodeEnclave},
		"an enclave on an old platform":     {func(w *world, _ *Sealer) { w.sgx.Collateral.Info.Levels[0].Status = tcb.OutOfDate }, CodeEnclave},
		"an enclave that is a TD": {func(w *world, _ *Sealer) {
			enclave := w.sgx.Quote.Enclave
			w.sgx = w.td
			w.sgx.Quote.Enclave = enclave
		}, CodeEnclave},
		"no enclave": {func(w *world, _ *Sealer) { w.away = true }, CodeAway},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			blob := w.seal()
			s := w.sealer()
			c.change(w, s)
			got, err := s.Unseal(blob)
			switch {
			case c.want == "":
				if err != nil || !bytes.Equal(got, key) {
					t.Errorf("got %x, %v", got, err)
				}
			case c.want == "refused":
				if !errors.Is(err, seal.ErrRefused) {
					t.Errorf("got %x, %v", got, err)
				}
			case !fault.Has(err, c.want) || errors.Is(err, seal.ErrRefused):
				t.Errorf("got %x, %v, want %s", got, err, c.want)
			}
		})
	}
}

func TestNoKeyIsSealedByAnEnclaveThatIsOlderThanWanted(t *testing.T) {
	s := newWorld(t).sealer()
	s.o.Enclave.MinSVN++
	if _, err := s.Seal(key); !fault.Has(err, CodeEnclave) {
		t.Error(err)
	}
}

func TestAServiceTDMayReachIntoATDSoItGetsNoKey(t *testing.T) {
	w := newWorld(t)
	w.td.Quote = tdxtest.DefaultTDX(5, quote.BodyTD15)
	if _, err := w.sealer().Seal(key); err != nil {
		t.Fatalf("without one: %v", err)
	}
	w.td.Quote.TD.MRServiceTD[0] = 1
	if _, err := w.sealer().Seal(key); !fault.Has(err, CodeDenied) {
		t.Errorf("with one: %v", err)
	}
}

// TestAHostInTheMiddle changes, replays and swallows what it carries.
func TestAHostInTheMiddle(t *testing.T) {
	change := func(field string, v any) func([]byte) []byte {
		return func(msg []byte) []byte {
			var m map[string]any
			if err := json.Unmarshal(msg, &m); err != nil {
				panic(err)
			}
			m[field] = v
			out, err := json.Marshal(m)
			if err != nil {
				panic(err)
			}
			return out
		}
	}
	for name, c := range map[string]struct {
		which  string
		change func([]byte) []byte
		code   string
	}{
		"its own HPKE key":              {"ask", change("key", bytes.Repeat([]byte{1}, 1216)), ""},
		"key info for everybody":        {"ask", change("key_info", keyInfo(0, 2)), CodeDenied},
		"other key info asked for":      {"ask", change("key_info", make([]byte, 512)), CodeDenied},
		"no key info asked for":         {"ask", change("key_info", []byte{}), CodeDenied},
		"an ask that is cut":            {"ask", func([]byte) []byte { return nil }, CodeAway},
		"an ask that does not parse":    {"ask", func([]byte) []byte { return []byte("{}") }, CodeAway},
		"no TDX quote":                  {"ask", change("quote", []byte{}), CodeDenied},
		"an envelope of its own":        {"answer", change("envelope", make([]byte, 1200)), CodeBinding},
		"other key info answered":       {"answer", change("key_info", make([]byte, 512)), CodeBinding},
		"no SGX quote":                  {"answer", change("quote", []byte{1}), CodeEnclave},
		"no collateral":                 {"answer", change("collateral", map[string]any{}), CodeEnclave},
		"a refusal of its own":          {"answer", change("refused", "no"), CodeDenied},
		"an answer that is cut":         {"answer", func([]byte) []byte { return nil }, CodeAway},
		"an unknown field":              {"answer", change("x", 1), CodeMessage},
		"another format":                {"answer", change("format", "cocoon-seal-sgx/2"), CodeMessage},
		"an answer that does not parse": {"answer", func([]byte) []byte { return []byte("[]") }, CodeMessage},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			blob := w.seal()
			w.mitm = func(which string, msg []byte) []byte {
				if which == c.which {
					return c.change(msg)
				}
				return msg
			}
			got, err := w.sealer().Unseal(blob)
			if err == nil || got != nil || c.code != "" && !fault.Has(err, c.code) {
				t.Errorf("got %x, %v, want %s", got, err, c.code)
			}
		})
	}
	t.Run("an old answer", func(t *testing.T) {
		w := newWorld(t)
		blob := w.seal()
		var old []byte
		w.mitm = func(which string, msg []byte) []byte {
			if which == "answer" {
				if old == nil {
					old = msg
				}
				return old
			}
			return msg
		}
		s := w.sealer()
		if _, err := s.Unseal(blob); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Unseal(blob); !fault.Has(err, CodeBinding) {
			t.Errorf("replayed: %v", err)
		}
	})
	t.Run("an old ask", func(t *testing.T) {
		w := newWorld(t)
		blob := w.seal()
		var old []byte
		w.mitm = func(which string, msg []byte) []byte {
			if which == "ask" {
				if old == nil {
					old = msg
				}
				return old
			}
			return msg
		}
		s := w.sealer()
		if _, err := s.Unseal(blob); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			<-w.served // of seal and of the first
		}
		if _, err := s.Unseal(blob); !fault.Has(err, CodeDenied) {
			t.Errorf("replayed: %v", err)
		}
		if err := <-w.served; !fault.Has(err, CodeBinding) {
			t.Errorf("the enclave says %v", err)
		}
	})
}

// TestAHostThatKnowsARootKey makes a sealed key under roots that it can have:
// one that every enclave of any signer can ask for, and one of an old version
// of the right enclave that it has broken.
func TestAHostThatKnowsARootKey(t *testing.T) {
	changed := func(at int, v byte) []byte {
		i := keyInfo(policySigner, 2)
		i[at] = v
		return i
	}
	for name, info := range map[string][]byte{
		"of every signer":               keyInfo(0, 2),
		"of this enclave's measurement": keyInfo(1, 2),
		"of a broken version":           keyInfo(policySigner, 1),
		"of enclaves under debug":       changed(atFlags, flagInit),
		"of another kind":               changed(atKeyName, 3),
		"with something reserved":       changed(500, 1),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			enclaveKey, err := w.SealKey(info)
			if err != nil {
				t.Fatal(err)
			}
			root, err := rootKey(enclaveKey, identity(&w.td.Quote.TD))
			if err != nil {
				t.Fatal(err)
			}
			wrapping, err := seal.WrappingKey(root, config, SealerName)
			if err != nil {
				t.Fatal(err)
			}
			blob, err := seal.Wrap(wrapping, append([]byte{blobVersion}, info...), []byte("the host's own key, 32 bytes ..."), bytes.NewReader(make([]byte, 12)))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := w.sealer().Unseal(blob); !errors.Is(err, seal.ErrRefused) {
				t.Errorf("the TD takes %q, %v", got, err)
			}
		})
	}
}

// zeros is an enclave program that runs outside of SGX.
type zeros struct{ *world }

func (z zeros) NewSealKey() (key, info []byte, err error) {
	return make([]byte, 16), keyInfo(policySigner, 2), nil
}

func TestAnEnclaveOutsideOfSGXHasNoKeys(t *testing.T) {
	w := newWorld(t)
	td, far := net.Pipe()
	s := Server{Enclave: zeros{w}, Collateral: w.collateral, Roots: w.pki.Roots(), Clock: now}
	go func() { w.served <- s.Serve(far); far.Close() }()
	sealer := w.sealer()
	sealer.o.Dial = func(context.Context) (net.Conn, error) { return td, nil }
	if _, err := sealer.Seal(key); !fault.Has(err, CodeDenied) {
		t.Error(err)
	}
}

func TestEveryByteOfASealedKeyCounts(t *testing.T) {
	w := newWorld(t)
	blob := w.seal()
	if len(blob) > seal.MaxBlob || bytes.Contains(blob, key[:16]) {
		t.Fatalf("blob of %d bytes", len(blob))
	}
	s := w.sealer()
	for i := 0; i < len(blob); i += 1 + i/16 { // each costs two quotes
		bad := bytes.Clone(blob)
		bad[i] ^= 1
		if got, err := s.Unseal(bad); err == nil {
			t.Fatalf("byte %d flipped: released %x", i, got)
		}
		select {
		case <-w.served:
		default:
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{`{"format":"cocoon-seal-sgx/1"}`, `{"envelope":"AA==","format":"cocoon-seal-sgx/1"}`} {
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{new(hello), new(ask), new(answer)} {
			doc, err := read(bytes.NewReader(b), v)
			if err != nil {
				continue
			}
			var again bytes.Buffer
			if got, err := write(&again, v); err != nil || !bytes.Equal(got, doc) || !bytes.HasPrefix(b, again.Bytes()) {
				t.Errorf("%x: read as %+v, written as %x, %v", b, v, got, err)
			}
		}
	})
}

// FuzzUnseal feeds blobs to a sealer whose enclave is away: it must not panic,
// and only well-formed blobs may cost an exchange.
func FuzzUnseal(f *testing.F) {
	w := newWorld(f)
	blob := w.seal()
	w.away = true
	s := w.sealer()
	f.Add(blob[:100])
	f.Add(blob)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := s.Unseal(b); err == nil {
			t.Errorf("%x was released", b)
		}
	})
}
