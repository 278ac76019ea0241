package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/enclave/platform"
	"cocoon/enclave/seal"
	"cocoon/enclave/seal/sgx"
	"cocoon/enclave/teetest"
	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/jwks"
	"cocoon/verifier/quote"
	"cocoon/verifier/result"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
	"cocoon/verifier/testfleet"
	"cocoon/verifier/wire"
)

// on is a keystore of a simulated machine.
func on(kind platform.Kind, m interface{ Sources() platform.Sources }) *keystore {
	return &keystore{machine: func() (platform.Platform, error) { return platform.Open(kind, m.Sources()) }}
}

func newGuest(t *testing.T) *teetest.Guest {
	t.Helper()
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	g, err := teetest.NewGuest(f, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// signsSealed has a whole service whose config names a sealed key sign a verdict,
// which verifies under the key set that it publishes: the key that was printed
// when it was sealed.
func signsSealed(t *testing.T, machine *keystore, sealed map[string]any) (dir string) {
	t.Helper()
	f := newFleet(t)
	dir = installFleet(t, f, func(m map[string]any) {
		delete(m, "signing_key")
		m["signing_keys"] = []any{map[string]any{"sealed": sealed}}
	})
	config := filepath.Join(dir, "config.yaml")
	k, err := sealedBy(config, filepath.Join(dir, sealed["file"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := sealKey(machine, k, &out); err != nil {
		t.Fatal(err)
	}
	s, err := newServiceOn(machine, time.Now, config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	srv := httptest.NewServer(s)
	defer srv.Close()
	c := dial(t, srv.URL)
	doc, err := f.live(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.VerifyBytes(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := jwks.Parse(fetch(t, srv.URL+wire.PathJWKS))
	if err != nil || len(keys) != 1 || hex.EncodeToString(keys[0]) != strings.TrimSpace(out.String()) {
		t.Fatalf("published %x, sealed %s, %v", keys, out.String(), err)
	}
	if _, err := result.VerifyEAR(v.EAR, result.EAROptions{Keys: keys, AllowDevelopment: true}); err != nil {
		t.Error(err)
	}
	return dir
}

// within reports whether an error has a fault with a code, also as the cause of
// another.
func within(err error, code string) bool {
	return err != nil && strings.Contains(err.Error(), "["+code+"]")
}

// reopen opens the keys of a config on a machine.
func reopen(t *testing.T, machine *keystore, dir string) (ed25519.PublicKey, error) {
	t.Helper()
	c, err := readConfig(filepath.Join(dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	keys, _, err := machine.open(c)
	if err != nil {
		return nil, err
	}
	return keys[0].Public().(ed25519.PublicKey), nil
}

// TestKeygenMakesNoOpenKeyWhereASealedOneWasWanted names a config that seals, and
// leaves --seal out.
func TestKeygenMakesNoOpenKeyWhereASealedOneWasWanted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	for _, args := range [][]string{
		{"--config", "verifier.yaml", "--dir", dir},
		{"--config", "verifier.yaml", "--dir", dir, "--next", "2099-01-01T00:00:00Z"},
		{"--config", "verifier.yaml"},
	} {
		var out bytes.Buffer
		if err := keygen(args, &out, &out); !fault.Has(err, "usage") {
			t.Errorf("%v: %v\n%s", args, err, out.String())
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("keys were made: %v", err)
	}
}

// TestAnSNPGuestSealsTheSigningKey seals by the key that the firmware derives,
// and asks for it on the same guest and on others.
func TestAnSNPGuestSealsTheSigningKey(t *testing.T) {
	g := newGuest(t)
	dir := signsSealed(t, on(platform.SNP, g), map[string]any{"file": "verifier.sealed", "by": "tee"})
	for name, c := range map[string]struct {
		change func(*teetest.Guest)
		want   string // a fault's code; "": the key
	}{
		"the same guest":          {func(*teetest.Guest) {}, ""},
		"without configfs":        {func(g *teetest.Guest) { g.NoTSM = true }, ""},
		"another image":           {func(g *teetest.Guest) { g.Measurement[0] ^= 1 }, seal.CodeRefused},
		"launched otherwise":      {func(g *teetest.Guest) { g.HostData[0] ^= 1 }, seal.CodeRefused},
		"another chip":            {func(g *teetest.Guest) { g.Chip = "other" }, seal.CodeRefused},
		"another policy":          {func(g *teetest.Guest) { g.Policy ^= 1 << 16 }, seal.CodeRefused},
		"under debug":             {func(g *teetest.Guest) { g.Policy |= 1 << 19 }, platform.CodeDebug},
		"firmware without a word": {func(g *teetest.Guest) { g.Failing = errors.New("no answer") }, "snp.report"},
	} {
		h := *g
		c.change(&h)
		_, err := reopen(t, on(platform.SNP, &h), dir)
		if c.want == "" && err != nil || c.want != "" && (!fault.Has(err, "verifier.signing_key") || !within(err, c.want)) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// sealingEnclave simulates the enclave on a TD's host, under the fleet's test
// authority: its sealing key is an HMAC that stands for EGETKEY.
type sealingEnclave struct {
	pki *tdxtest.PKI
	c   tdxtest.Case
}

func (e *sealingEnclave) Quote(data [64]byte) ([]byte, error) {
	q := e.c.Quote
	q.Enclave.ReportData = data
	return e.pki.Quote(&q)
}

// NewSealKey answers with a key request for a sealing key of the signer (Intel
// SDM volume 3D, "Layout of KEYREQUEST Data Structure").
func (e *sealingEnclave) NewSealKey() (key, info []byte, err error) {
	info = make([]byte, sgx.KeyInfoSize)
	le := binary.LittleEndian
	le.PutUint16(info, 4)                            // KEYNAME: SEAL_KEY
	le.PutUint16(info[2:], 2)                        // KEYPOLICY: MRSIGNER
	le.PutUint16(info[4:], e.c.Quote.Enclave.ISVSVN) // ISVSVN
	le.PutUint64(info[24:], 0xff0000000000000b)      // ATTRIBUTEMASK
	key, err = e.SealKey(info)
	return key, info, err
}

func (e *sealingEnclave) SealKey(info []byte) ([]byte, error) {
	h := hmac.New(sha256.New, []byte("cpu"))
	h.Write(e.c.Quote.Enclave.MRSigner[:])
	h.Write(info)
	return h.Sum(nil)[:16], nil
}

// listen serves the enclave, and returns its address.
func (e *sealingEnclave) listen(t *testing.T, td []byte) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	s := sgx.Server{Enclave: e, Roots: e.pki.Roots(), Collateral: func(q []byte) (*collateral.Raw, error) {
		if binary.LittleEndian.Uint32(q[4:]) == quote.TEETDX {
			return collateral.ParseJSON(td)
		}
		return e.pki.Collateral(&e.c.Collateral)
	}}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = s.Serve(conn) // the TD is told
			conn.Close()
		}
	}()
	return ln.Addr().String()
}

// TestATDsSigningKeyIsSealedByAnEnclave seals by the SGX enclave that the config
// names.
func TestATDsSigningKeyIsSealedByAnEnclave(t *testing.T) {
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	td, err := teetest.NewTD(f, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	e := &sealingEnclave{f.TDXPKI(), tdxtest.StatusSGX(tcb.UpToDate)}
	from := time.Now().UTC().Truncate(time.Second).AddDate(0, 0, -1)
	to := from.AddDate(0, 0, 30)
	w, col := tdxtest.Window{From: from, To: to}, &e.c.Collateral
	col.Info.IssueDate, col.Info.NextUpdate, col.QE.IssueDate, col.QE.NextUpdate = from, to, from, to
	col.PCKCRL.Window, col.RootCRL.Window = w, w
	machine := on(platform.TDX, td)
	machine.roots = f.TDXPKI().Roots()
	enclave := map[string]any{"address": e.listen(t, td.Collateral), "signer": hex.EncodeToString(e.c.Quote.Enclave.MRSigner[:]), "product": e.c.Quote.Enclave.ISVProdID, "min_svn": e.c.Quote.Enclave.ISVSVN}
	dir := signsSealed(t, machine, map[string]any{"file": "verifier.sealed", "by": "tee", "enclave": enclave})
	if _, err := reopen(t, machine, dir); err != nil {
		t.Errorf("the same TD: %v", err)
	}
	td.RTMR[1][0] ^= 1
	if _, err := reopen(t, machine, dir); !within(err, seal.CodeRefused) {
		t.Errorf("another kernel: %v", err)
	}
	td.RTMR[1][0] ^= 1
	e.c.Quote.Enclave.MRSigner[0] ^= 1
	if _, err := reopen(t, machine, dir); !within(err, sgx.CodeEnclave) {
		t.Errorf("another enclave: %v", err)
	}
	// A TD seals nothing by itself.
	if err := sealKey(machine, &Sealed{File: filepath.Join(dir, "alone.sealed"), By: ByTEE}, &bytes.Buffer{}); !within(err, platform.CodeNoSeal) {
		t.Errorf("without an enclave: %v", err)
	}
}

// TestWhereThereIsNoTEENothingIsSealedByIt is on the machine that tests run on.
func TestWhereThereIsNoTEENothingIsSealedByIt(t *testing.T) {
	if kind, err := platform.Detect(platform.Linux{}); err != nil || kind != platform.VTPM {
		t.Skipf("this is a %s machine, %v", kind, err)
	}
	file := filepath.Join(t.TempDir(), "verifier.sealed")
	if err := sealKey(&keystore{}, &Sealed{File: file, By: ByTEE}, &bytes.Buffer{}); !within(err, "verifier.tee") {
		t.Error(err)
	}
	if _, _, err := (&keystore{}).open(&Config{Signing: []SigningKey{{Sealed: &Sealed{File: "tee_test.go", By: ByTEE}}}, dir: "."}); !fault.Has(err, "verifier.signing_key") {
		t.Error(err)
	}
}
