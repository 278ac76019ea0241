package main

import (
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"runtime/debug"

	"cocoon/hostd/api"
	"cocoon/internal/fault"
)

// tlsListener is the section tls of the configuration (docs/hostd.md).
type tlsListener struct {
	Listen string `json:"listen"` // HOST:PORT
	api.TLSFiles
}

// resolve checks the section and makes its paths absolute.
func (t *tlsListener) resolve(dir string) error {
	if t == nil {
		return nil
	}
	if _, _, err := net.SplitHostPort(t.Listen); err != nil || t.Certificate == "" || t.Key == "" || t.ClientCA == "" {
		return fault.New(fault.ExitParse, "hostd.config.malformed", "docs/hostd.md describes the section", "reading tls: give listen as HOST:PORT, certificate, key and client_ca")
	}
	for _, p := range []*string{&t.Certificate, &t.Key, &t.ClientCA} {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return nil
}

// open listens; without a section there is no listener. reload reads the files
// again.
func (t *tlsListener) open(log *slog.Logger) (l net.Listener, reload func() error, err error) {
	if t == nil {
		return nil, func() error { return nil }, nil
	}
	files, err := t.Reloading()
	if err != nil {
		return nil, nil, err
	}
	if l, err = net.Listen("tcp", t.Listen); err != nil {
		return nil, nil, fault.New(fault.ExitNotReady, "hostd.tls.listen", "free the address, or choose another in tls", "listening on %s: %w", t.Listen, err)
	}
	log.Info("serving over TLS", "listen", l.Addr().String())
	return tls.NewListener(l, files.Config()), files.Reload, nil
}

// version names this software.
func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
