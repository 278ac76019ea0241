package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/keyfile"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/jwks"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/testfleet"
	"cocoon/verifier/wire"
)

// replace writes a file as an operator does, by rename.
func replace(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", b, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// certify writes a new certificate for the loopback address and its key.
func certify(t *testing.T, dir string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "verifier"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	replace(t, filepath.Join(dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// secure returns a client over TLS that trusts these certificates; lasting, on
// connections that stay.
func secure(t *testing.T, url string, lasting bool, certs ...*x509.Certificate) (*client.Client, *http.Client) {
	t.Helper()
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: !lasting, ForceAttemptHTTP2: lasting}
	t.Cleanup(tr.CloseIdleConnections)
	hc := &http.Client{Transport: tr, Timeout: 2 * time.Minute}
	c, err := client.New(client.Options{BaseURL: url, Retries: -1, HTTP: hc})
	if err != nil {
		t.Fatal(err)
	}
	return c, hc
}

// TestAReloadUnderLoadReplacesEverything reloads policy, manifests, TLS
// certificate and the file of the signing key, one after another and all at once,
// while machines ask for verdicts: each request is answered, and what is asked
// after a reload is answered by what is new.
func TestAReloadUnderLoadReplacesEverything(t *testing.T) {
	f := newFleet(t)
	other, err := testfleet.New("another fleet")
	if err != nil {
		t.Fatal(err)
	}
	others, err := other.Files()
	if err != nil {
		t.Fatal(err)
	}
	// The policy believes both fleets' signers, so that it is the manifests alone
	// that decide which machines are accepted.
	p := f.Policy(policy.ClassTDX, policy.ClassTest)
	p.Manifests.Keys = append(p.Manifests.Keys, other.Policy().Manifests.Keys...)
	var cfg map[string]any
	dir := installFleet(t, f, func(m map[string]any) {
		cfg = m
		m["tls"] = map[string]any{"certificate": "tls.crt", "key": "tls.key"}
	})
	setPolicy := func(name string) digest.SHA256 {
		t.Helper()
		p.Name = name
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		replace(t, filepath.Join(dir, testfleet.FilePolicy), b)
		h, err := p.Hash()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	setKey := func() ed25519.PublicKey {
		t.Helper()
		public, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "keys", "verifier.key")
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), keyfile.Write(path+".new", key), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		return public
	}
	setManifests := func(names ...string) {
		t.Helper()
		cfg["manifests"] = names
		writeConfig(t, dir, cfg)
	}
	replace(t, filepath.Join(dir, "other.json"), others[testfleet.FileManifest])
	hash, key, oldCert := setPolicy("first"), setKey(), certify(t, dir)
	proc := startProcess(t, dir, "--config", "config.yaml")
	// Made now and installed later: those under load trust both.
	stage := t.TempDir()
	newCert := certify(t, stage)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var accepted, refused atomic.Int64
	for i := range 3 {
		c, _ := secure(t, proc.url, i > 0, oldCert, newCert)
		wg.Go(func() {
			for ctx.Err() == nil {
				doc, err := f.live(t.Context(), c)
				if err == nil {
					_, err = c.VerifyBytes(t.Context(), doc)
				}
				switch {
				case err == nil:
					accepted.Add(1)
				case client.Refusal(err) != nil: // an answer, by the manifests of the moment
					refused.Add(1)
				default:
					t.Errorf("a request failed: %v", err)
					return
				}
			}
		})
	}
	cert := oldCert
	check := func(what string, good bool) {
		t.Helper()
		c, hc := secure(t, proc.url, false, cert)
		resp, err := hc.Get(proc.url + wire.PathJWKS)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer resp.Body.Close()
		if got := resp.TLS.PeerCertificates[0]; !got.Equal(cert) {
			t.Errorf("%s: another certificate is served", what)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		keys, err := jwks.Parse(b.Bytes())
		if err != nil || len(keys) != 1 || !keys[0].Equal(key) {
			t.Errorf("%s: keys %x, %v", what, keys, err)
		}
		doc, err := f.live(t.Context(), c)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		v, err := c.VerifyBytes(t.Context(), doc)
		if !good {
			if r := client.Refusal(err); r == nil || r.PolicySHA256 != hash {
				t.Errorf("%s: the machine is not refused: %v", what, err)
			}
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if e, err := result.VerifyEAR(v.EAR, result.EAROptions{Keys: []ed25519.PublicKey{key}, AllowDevelopment: true}); err != nil || e.PolicySHA256 != hash {
			t.Errorf("%s: the verdict is of policy %v, want %s: %v", what, e, hash, err)
		}
	}
	reload := func() {
		t.Helper()
		// What follows is under load: somebody has been answered since the last.
		for n, end := accepted.Load()+refused.Load(), time.Now().Add(time.Minute); accepted.Load()+refused.Load() == n && !t.Failed(); {
			if time.Now().After(end) {
				t.Fatal("nobody is answered")
			}
			time.Sleep(time.Millisecond)
		}
		if err := proc.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		proc.until(t, "msg=reloaded")
	}
	install := func() {
		t.Helper()
		for _, name := range []string{"tls.key", "tls.crt"} {
			b, err := os.ReadFile(filepath.Join(stage, name))
			if err != nil {
				t.Fatal(err)
			}
			replace(t, filepath.Join(dir, name), b)
		}
	}
	check("at the start", true)
	hash = setPolicy("second")
	reload()
	check("another policy", true)
	setManifests("other.json")
	reload()
	check("another manifest", false)
	for end := time.Now().Add(time.Minute); refused.Load() == 0 && !t.Failed(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody is refused under load")
		}
	}
	setManifests("other.json", testfleet.FileManifest)
	reload()
	check("both manifests", true)
	key = setKey()
	reload()
	check("another key in the same file", true)
	install()
	cert = newCert
	reload()
	check("another certificate", true)
	hash, key = setPolicy("third"), setKey()
	setManifests(testfleet.FileManifest)
	reload()
	check("everything", true)
	cancel()
	wg.Wait()
	if accepted.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d accepted and %d refused under load", accepted.Load(), refused.Load())
	}
	proc.stop(t, syscall.SIGTERM)
}
