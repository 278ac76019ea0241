package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu/services"
)

// gpuCache is the section gpu_cache of the configuration (docs/gpu-rims.md).
type gpuCache struct {
	// Listen is unix:/PATH or a loopback address with a port: guests come
	// through a forward of their spec, nobody else should.
	Listen string `json:"listen"`
	services.Config
}

// resolve checks the section and makes its paths absolute.
func (g *gpuCache) resolve(dir string) error {
	bad := func(format string, args ...any) error {
		return fault.New(fault.ExitParse, "hostd.config.malformed", "docs/gpu-rims.md describes the section", "reading gpu_cache: "+format, args...)
	}
	if p, ok := strings.CutPrefix(g.Listen, "unix:"); ok {
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		g.Listen = "unix:" + p
	} else if host, _, err := net.SplitHostPort(g.Listen); err != nil || !net.ParseIP(host).IsLoopback() {
		return bad("listen %.100q is neither unix:PATH nor a loopback address with a port", g.Listen)
	}
	if g.Dir != "" && !filepath.IsAbs(g.Dir) {
		g.Dir = filepath.Join(dir, g.Dir)
	}
	if err := g.Validate(); err != nil {
		return bad("%w", err)
	}
	return nil
}

// serve runs the cache until the function that it returns is called. A nil
// section serves nothing.
func (g *gpuCache) serve(ctx context.Context, log *slog.Logger) (end func() error, err error) {
	if g == nil {
		return func() error { return nil }, nil
	}
	cache, err := g.Open("", nil, nil, time.Now, log)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	if path, ok := strings.CutPrefix(g.Listen, "unix:"); ok {
		l, err = listen(path)
	} else if l, err = net.Listen("tcp", g.Listen); err != nil {
		err = fault.New(fault.ExitNotReady, "hostd.gpu_cache.listen", "free the address, or choose another in gpu_cache", "listening on %s: %w", g.Listen, err)
	}
	if err != nil {
		cache.Close()
		return nil, err
	}
	srv := &http.Server{Handler: cache.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) }}
	log.Info("serving reference measurements", "listen", l.Addr().String())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	return func() error {
		cache.Close()
		err := srv.Close()
		if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, fmt.Errorf("serving reference measurements: %w", serr))
		}
		return err
	}, nil
}
