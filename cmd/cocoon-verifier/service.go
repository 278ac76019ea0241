package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/measurements/log/tiles"
	"cocoon/verifier/dcap"
	"cocoon/verifier/journal"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/services"
	"cocoon/verifier/server"
	"cocoon/verifier/server/shared"
	"cocoon/verifier/snp"
)

// linger is for how long what a reload replaced stays open: requests under way
// use it.
const linger = 2 * writeTimeout

// service is a running verifier: what lives as long as the process, and what a
// reload replaces.
type service struct {
	path string // of the config
	log  *slog.Logger

	keys   *keystore
	clock  func() time.Time
	caches caches
	cache  *services.Client // nil: none
	shared *shared.Store    // nil: none
	server *server.Server
	// fetched is what replicas share of what they fetched; nil: nothing.
	fetched *services.Shared
	mux     http.Handler
	cert    atomic.Pointer[tls.Certificate]

	mu     sync.Mutex // held by a reload
	cfg    *Config
	loaded *loaded
	ended  []io.Closer // in the order of making

	taking sync.Mutex // held while manifests are taken in
}

// caches are kept over reloads: their keys have everything that entries depend
// on.
type caches struct {
	dcap  *dcap.Cache
	snp   *snp.Cache
	nvgpu *nvgpu.Cache
}

type closer func() error

// Close calls the function.
func (c closer) Close() error { return c() }

// newService loads everything that the config names and makes the service.
func newService(path string, log *slog.Logger) (*service, error) {
	return newServiceOn(&keystore{}, time.Now, path, log)
}

// newServiceOn is newService on a machine, by a clock.
func newServiceOn(machine *keystore, clock func() time.Time, path string, log *slog.Logger) (s *service, err error) {
	s = &service{path: path, log: log, keys: machine, clock: clock, caches: caches{dcap.NewCache(dcap.CacheOptions{}), snp.NewCache(snp.CacheOptions{}), nvgpu.NewCache(nvgpu.CacheOptions{})}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.cfg, err = readConfig(path); err != nil {
		return s, err
	}
	c := s.cfg
	if err := c.makeKeys(log); err != nil {
		return s, err
	}
	if err := s.openShared(c); err != nil {
		return s, err
	}
	if c.GPUCache != nil {
		roots, err := c.rimRoots()
		if err != nil {
			return s, err
		}
		if s.cache, err = c.GPUCache.Open(c.dir, roots, s.fetched, clock, log); err != nil {
			return s, err
		}
		s.ended = append(s.ended, closer(func() error { s.cache.Close(); return nil }))
	}
	if s.loaded, err = s.load(c, nil); err != nil {
		return s, err
	}
	s.cert.Store(s.loaded.cert)
	o := server.Options{
		Trust: s.loaded.trust, Build: build(), Log: log, Clock: clock, ArchiveDir: c.path(c.Archive),
		PerSecond: c.Limits.PerSecond, Burst: c.Limits.Burst, Concurrent: c.Limits.Concurrent, Queue: c.Limits.Queue, Delay: time.Duration(c.Limits.QueueMillis) * time.Millisecond,
		ChallengeTTL: time.Duration(c.Limits.ChallengeSeconds) * time.Second,
		ArchiveBytes: c.Limits.ArchiveBytes, ArchiveAge: time.Duration(c.Limits.ArchiveDays) * 24 * time.Hour,
	}
	if err := s.own(c, &o); err != nil {
		return s, err
	}
	if err := s.durable(c, &o); err != nil {
		return s, err
	}
	if s.shared != nil {
		o.Challenges, o.Verdicts, o.Limits = s.shared, shared.Verdicts{Store: s.shared}, shared.Limits{Store: s.shared}
	}
	if s.server, err = server.New(o); err != nil {
		return s, err
	}
	if c.Evidence == EvidenceTEE {
		if err := s.server.CheckOwn(context.Background()); err != nil {
			return s, fault.New(fault.ExitInternal, "verifier.evidence", `see docs/verifier-api.md, "The verifier's own evidence", or leave "evidence" out`, "collecting own evidence: %w", err)
		}
	}
	s.mux = s.routes()
	s.startFollowing()
	return s, nil
}

// own is the evidence of the machine that the config wants to be shown.
func (s *service) own(c *Config, o *server.Options) error {
	switch c.Evidence {
	case "":
	case EvidenceTEE:
		e, err := s.keys.teeEvidence(s.clock)
		if err != nil {
			return err
		}
		s.ended = append(s.ended, e)
		o.Own = e
	default:
		o.Own = server.EvidenceFile(c.path(c.Evidence))
	}
	return nil
}

// durable opens the log of verdicts.
func (s *service) durable(c *Config, o *server.Options) error {
	if c.Journal == nil {
		return nil
	}
	key, err := keyfile.ReadEd25519(c.path(c.Journal.Key))
	if err != nil {
		return fault.New(fault.ExitInternal, "verifier.journal", "make keys with cocoon-verifier keygen", "opening journal: %w", err)
	}
	publish := &journal.Publish{}
	if c.Journal.Witnesses != "" {
		if publish.Witnesses, err = c.readFile(c.Journal.Witnesses, maxConfig); err != nil {
			return fault.New(fault.ExitInternal, "verifier.journal", "check \"witnesses\" in the config", "reading policy of witnesses: %w", err)
		}
	}
	tiles.Quiet()
	j, err := journal.Open(journal.Options{Dir: c.path(c.Journal.Dir), Origin: c.Journal.Origin, Key: key, Log: s.log, Promises: true, Publish: publish})
	if err != nil {
		return fault.New(fault.ExitInternal, "verifier.journal", "run cocoon-verifier fsck on it, and see that no other verifier uses it", "opening journal: %w", err)
	}
	s.ended = append(s.ended, j)
	o.Journal = server.NewDurable(j, s.clock)
	return nil
}

// openShared opens the store that replicas have in common.
func (s *service) openShared(c *Config) error {
	if c.Shared == nil {
		return nil
	}
	bad := func(err error) error {
		return fault.New(fault.ExitInternal, "verifier.shared_store", "correct \"shared_store\" in the config", "%w", err)
	}
	so := shared.Options{URL: c.Shared.URL, Prefix: c.Shared.Prefix}
	if c.Shared.PasswordFile != "" {
		var err error
		if so.Password, err = c.readSecret(c.Shared.PasswordFile); err != nil {
			return bad(err)
		}
	}
	store, err := shared.Open(context.Background(), so)
	if err != nil {
		return bad(err)
	}
	s.ended = append(s.ended, store)
	s.shared = store
	if c.Shared.SecretFile == "" {
		if c.PCS != nil || c.KDS != nil || c.GPUCache != nil {
			s.log.Warn("replicas do not share what they fetch: shared_store names no secret_file")
		}
		return nil
	}
	secret, err := c.readSecret(c.Shared.SecretFile)
	if err == nil && secret == so.Password {
		err = errors.New("secret_file has the password, which the store knows")
	}
	if err == nil {
		s.fetched, err = shared.Fetched{Store: store}.Under([]byte(secret))
	}
	if err != nil {
		return bad(err)
	}
	return nil
}

func (s *service) routes() http.Handler {
	if s.cache == nil {
		return s.server
	}
	mux := http.NewServeMux()
	mux.Handle("/", s.server)
	rims := s.cache.Handler()
	for _, path := range []string{"/v1/rim/", "/ocsp"} {
		mux.Handle(path, s.server.Limited(path, rims))
	}
	return mux
}

// reload reads the config again and replaces policy, manifests, keys and what
// belongs to them. An error leaves everything as it was.
func (s *service) reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh, err := s.again()
	if err == nil {
		err = s.server.Reload(fresh.trust)
	} else {
		s.server.ReloadFailed()
	}
	if err != nil {
		if fresh != nil {
			err = errors.Join(err, closeAll(fresh.made))
		}
		return fault.New(fault.ExitInternal, "verifier.reload", "correct it and reload again; until then everything is as before", "reloading: %w", err)
	}
	s.cert.Store(fresh.cert)
	old := s.loaded.made
	s.loaded = fresh
	time.AfterFunc(linger, func() {
		if err := closeAll(old); err != nil {
			s.log.Warn("closing what a reload replaced", "error", err)
		}
	})
	return nil
}

func (s *service) again() (*loaded, error) {
	c, err := readConfig(s.path)
	if err != nil {
		return nil, err
	}
	if !reflect.DeepEqual(c.fixed(), s.cfg.fixed()) {
		return nil, errors.New("a key of the config has changed that needs a restart")
	}
	if err := c.makeKeys(s.log); err != nil {
		return nil, err
	}
	return s.load(c, s.loaded)
}

// Close ends what the service has open. Nothing uses it any more.
func (s *service) Close() error {
	var errs []error
	if s.loaded != nil {
		errs = append(errs, closeAll(s.loaded.made))
	}
	for _, c := range slices.Backward(s.ended) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// ServeHTTP serves one request.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// certificate is for tls.Config.GetCertificate.
func (s *service) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.cert.Load(); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("there is no certificate")
}
