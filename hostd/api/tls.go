package api

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"

	"cocoon/internal/fault"
)

// TLSFiles are the files of a listener over TLS.
type TLSFiles struct {
	Certificate string `json:"certificate"` // PEM, the daemon's
	Key         string `json:"key"`         // PEM, for nobody but the daemon's user
	ClientCA    string `json:"client_ca"`   // PEM: whose certificates callers must have
}

// maxPEM bounds each of the files in bytes.
const maxPEM = 1 << 20

// Config reads the files. TLS is 1.3 alone, and a caller without a certificate
// of the authority does not get as far as a request.
func (f *TLSFiles) Config() (*tls.Config, error) {
	const hint = `docs/hostd.md describes "tls"`
	key, err := readPrivate(f.Key)
	if err != nil {
		return nil, err
	}
	cert, err := readLimited(f.Certificate)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "hostd.tls.certificate", hint, "reading the certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "hostd.tls.certificate", "give certificate and key of one pair, in PEM", "reading certificate and key: %w", err)
	}
	ca, err := readLimited(f.ClientCA)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "hostd.tls.client_ca", hint, "reading the clients' authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fault.New(fault.ExitParse, "hostd.tls.client_ca", "give the authority's certificate in PEM", "reading the clients' authority: no certificate in %s", f.ClientCA)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, NextProtos: []string{"h2", "http/1.1"}}, nil
}

// Reloading is a listener's TLS whose files can be read again while it serves.
type Reloading struct {
	files *TLSFiles
	now   atomic.Pointer[tls.Config]
}

// Reloading reads the files for the first time.
func (f *TLSFiles) Reloading() (*Reloading, error) {
	r := &Reloading{files: f}
	return r, r.Reload()
}

// Reload reads the files again, for connections that come from now on. What
// cannot be read changes nothing.
func (r *Reloading) Reload() error {
	cfg, err := r.files.Config()
	if err == nil {
		r.now.Store(cfg)
	}
	return err
}

// Config is for the listener. All readings share its ticket keys; a session that
// is resumed is held against the authority of the moment, as package tls does.
func (r *Reloading) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return r.now.Load(), nil }}
}

// readPrivate reads a key that nobody else can read or replace.
func readPrivate(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err == nil {
		st, ok := fi.Sys().(*syscall.Stat_t)
		if m := fi.Mode(); !ok || !m.IsRegular() || m.Perm()&0o077 != 0 || st.Uid != uint32(os.Geteuid()) && st.Uid != 0 {
			return nil, fault.New(fault.ExitNotReady, "hostd.tls.key", "chown it to the daemon's user and chmod 600 it; if others could read it, make a new one",
				"reading the key: %s is a file of others, or others may read it (%s)", path, m)
		}
	}
	b, err := readLimited(path)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "hostd.tls.key", `docs/hostd.md describes "tls"`, "reading the key: %w", err)
	}
	return b, nil
}

func readLimited(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxPEM {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes: %w", path, maxPEM, fs.ErrInvalid)
	}
	return os.ReadFile(path)
}
