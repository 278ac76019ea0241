package main

import (
	"log/slog"
	"os"
	"time"

	"cocoon/hostd/idle"
	"cocoon/hostd/spec"
)

// idler is the idle mode; nil where no policy is named.
type idler struct{ *idle.Runner }

func openIdle(path string, host idle.Host, log *slog.Logger) (*idler, error) {
	if path == "" {
		return nil, nil
	}
	p, err := idle.Load(path)
	if err != nil {
		return nil, err
	}
	s, err := spec.Load(p.Spec)
	if err != nil {
		return nil, err
	}
	sensors := &idle.Sensors{FS: os.DirFS("/"), Clock: time.Now}
	return &idler{&idle.Runner{Policy: p, Spec: s, Host: host, Look: sensors.Look, Logger: log}}, nil
}

// status is what the interface serves; nil without an idle mode.
func (i *idler) status() func() idle.Status {
	if i == nil {
		return nil
	}
	return i.Status
}
