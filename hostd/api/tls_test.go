package api_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/hostd/api"
	"cocoon/hostd/client"
	"cocoon/internal/fault"
)

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issue returns a certificate and its key, PEM.
func (a *authority) issue(t *testing.T, use x509.ExtKeyUsage) (cert, key []byte) {
	t.Helper()
	k := newKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{use}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// tlsFiles writes what a listener reads.
func tlsFiles(t *testing.T, server, clients *authority) *api.TLSFiles {
	t.Helper()
	dir := t.TempDir()
	f := &api.TLSFiles{Certificate: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), ClientCA: filepath.Join(dir, "ca.pem")}
	cert, key := server.issue(t, x509.ExtKeyUsageServerAuth)
	for path, b := range map[string][]byte{f.Certificate: cert, f.Key: key, f.ClientCA: clients.pem()} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestOverTLSOnlyCertificatesOfTheAuthorityCount(t *testing.T) {
	server, clients, other := newAuthority(t), newAuthority(t), newAuthority(t)
	cfg, err := tlsFiles(t, server, clients).Config()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	srv := &http.Server{Handler: api.Handler(api.Options{Host: host{}, Clock: time.Now, Logger: log}), ConnContext: api.ConnContext, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(tls.NewListener(l, cfg)) }()
	t.Cleanup(func() { srv.Close(); <-done })
	roots := x509.NewCertPool()
	roots.AddCert(server.cert)
	pair := func(a *authority, use x509.ExtKeyUsage) []tls.Certificate {
		cert, key := a.issue(t, use)
		p, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{p}
	}
	for _, tc := range []struct {
		name string
		cfg  *tls.Config
		ok   bool
	}{
		{"a certificate of the authority", &tls.Config{RootCAs: roots, Certificates: pair(clients, x509.ExtKeyUsageClientAuth)}, true},
		{"no certificate", &tls.Config{RootCAs: roots}, false},
		{"a certificate of another authority", &tls.Config{RootCAs: roots, Certificates: pair(other, x509.ExtKeyUsageClientAuth)}, false},
		{"a certificate for servers", &tls.Config{RootCAs: roots, Certificates: pair(clients, x509.ExtKeyUsageServerAuth)}, false},
		{"TLS 1.2", &tls.Config{RootCAs: roots, Certificates: pair(clients, x509.ExtKeyUsageClientAuth), MaxVersion: tls.VersionTLS12}, false},
		{"a client that trusts another server", &tls.Config{RootCAs: x509.NewCertPool(), Certificates: pair(clients, x509.ExtKeyUsageClientAuth)}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := client.NewTLS(l.Addr().String(), tc.cfg)
			defer c.Close()
			vms, err := c.List(t.Context())
			if tc.ok != (err == nil && len(vms) == 2) || !tc.ok && !fault.Has(err, "hostd.unreachable") {
				t.Errorf("List() = %v, %v", vms, err)
			}
		})
	}
}

func TestAListenerWithWeakFilesDoesNotStart(t *testing.T) {
	a := newAuthority(t)
	for _, tc := range []struct {
		name, code string
		change     func(f *api.TLSFiles) error
	}{
		{"a key that others may read", "hostd.tls.key", func(f *api.TLSFiles) error { return os.Chmod(f.Key, 0o644) }},
		{"a key that the group may write", "hostd.tls.key", func(f *api.TLSFiles) error { return os.Chmod(f.Key, 0o620) }},
		{"no key", "hostd.tls.key", func(f *api.TLSFiles) error { return os.Remove(f.Key) }},
		{"a key of another certificate", "hostd.tls.certificate", func(f *api.TLSFiles) error {
			_, key := a.issue(t, x509.ExtKeyUsageServerAuth)
			return os.WriteFile(f.Key, key, 0o600)
		}},
		{"no authority", "hostd.tls.client_ca", func(f *api.TLSFiles) error { return os.WriteFile(f.ClientCA, []byte("x"), 0o600) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := tlsFiles(t, a, a)
			if err := tc.change(f); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Config(); !fault.Has(err, tc.code) {
				t.Errorf("Config() = %v, want %s", err, tc.code)
			}
		})
	}
}

// A connection that comes after the files were read again meets the new
// certificate and the new authority; files that are not good change nothing.
func TestFilesAreReadAgainWhileTheListenerServes(t *testing.T) {
	server, clients, other := newAuthority(t), newAuthority(t), newAuthority(t)
	files := tlsFiles(t, server, clients)
	r, err := files.Reloading()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	srv := &http.Server{Handler: api.Handler(api.Options{Host: host{}, Clock: time.Now, Logger: log}), ConnContext: api.ConnContext, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(tls.NewListener(l, r.Config())) }()
	t.Cleanup(func() { srv.Close(); <-done })
	roots := x509.NewCertPool()
	roots.AddCert(server.cert)
	// A caller may resume a session that it has from before.
	sessions := map[*authority]tls.ClientSessionCache{clients: tls.NewLRUClientSessionCache(0), other: tls.NewLRUClientSessionCache(0)}
	serial := func(a *authority) (cert []byte, err error) {
		c, k := a.issue(t, x509.ExtKeyUsageClientAuth)
		pair, err := tls.X509KeyPair(c, k)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ClientSessionCache: sessions[a]})
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		// In TLS 1.3 the server's refusal comes with its first bytes.
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: hostd\r\nConnection: close\r\n\r\n"); err != nil {
			return nil, err
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			return nil, err
		}
		return conn.ConnectionState().PeerCertificates[0].Raw, nil
	}
	before, err := serial(clients)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.Certificate, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Reload(); !fault.Has(err, "hostd.tls.certificate") {
		t.Errorf("reading a bad certificate: %v", err)
	}
	if same, err := serial(clients); err != nil || !bytes.Equal(same, before) {
		t.Errorf("after a failed reading: another certificate, or %v", err)
	}
	cert, key := server.issue(t, x509.ExtKeyUsageServerAuth)
	for path, b := range map[string][]byte{files.Certificate: cert, files.Key: key, files.ClientCA: other.pem()} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Reload(); err != nil {
		t.Fatal(err)
	}
	if after, err := serial(other); err != nil || bytes.Equal(after, before) {
		t.Errorf("after the reading: the same certificate, or %v", err)
	}
	if _, err := serial(clients); err == nil {
		t.Error("a caller of the authority from before is let in")
	}
}
