package nvgpu

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/services"
	"cocoon/verifier/result"
)

// Bounds of what one appraisal asks the services for.
const (
	servicesTimeout = 20 * time.Second
	servicesAtOnce  = 8
)

// Services is a Source that asks NVIDIA's RIM and OCSP services, or a cache of
// them. It asks only for devices whose chain, signature and nonce are good, so
// that nobody's word alone makes it ask. What it does not get is named in its
// answer, and logged; the checks say what follows.
type Services struct {
	Client *services.Client
	Logger *slog.Logger // nil: nothing is logged
}

// Collateral asks for the documents and the revocation status that the devices
// need. With a nonce no OCSP answer comes out of a cache.
func (s *Services) Collateral(ctx context.Context, devices []*nvgpu.Device, nonce []byte) (Collateral, string) {
	ctx, cancel := context.WithTimeout(ctx, servicesTimeout)
	defer cancel()
	a := &asking{s: s, ctx: ctx, nonce: nonce, asked: map[string]bool{}}
	a.group.SetLimit(servicesAtOnce)
	for _, d := range devices {
		if d.Check("gpu.chain").Status != result.Pass || d.Check("gpu.signature").Status != result.Pass || d.Check("gpu.nonce").Status != result.Pass {
			continue
		}
		for _, id := range d.RIMIDs() {
			a.rim(id)
		}
		a.status(d.Issuers())
	}
	_ = a.group.Wait() // its functions return nil: see missing
	// The signers of the documents are known only now.
	for _, chain := range a.signers {
		a.status(chain)
	}
	_ = a.group.Wait()
	return a.out, a.said()
}

// asking is what one call collects.
type asking struct {
	s     *Services
	ctx   context.Context
	nonce []byte
	group errgroup.Group

	asked map[string]bool // RIM IDs and certificates

	mu      sync.Mutex
	out     Collateral
	signers [][]*x509.Certificate
	from    [2]map[string]int // of RIMs and OCSP responses: how many, by origin
	absent  []string          // what is not to be had, with the code of why
}

// Kinds of what is asked for.
const (
	kindRIM = iota
	kindOCSP
)

// count notes where one came from; the lock is held.
func (a *asking) count(kind int, o services.Origin) {
	if a.from[kind] == nil {
		a.from[kind] = map[string]int{}
	}
	a.from[kind][o.String()]++
}

// maxAbsent bounds how much of what is missing is named.
const maxAbsent = 8

// said is the line about where all of it came from.
func (a *asking) said() string {
	var parts []string
	for kind, name := range []string{"RIMs", "OCSP responses"} {
		for _, origin := range slices.Sorted(maps.Keys(a.from[kind])) {
			parts = append(parts, fmt.Sprintf("%d %s %s", a.from[kind][origin], name, origin))
		}
	}
	slices.Sort(a.absent)
	if n := len(a.absent); n > maxAbsent {
		a.absent = append(a.absent[:maxAbsent], fmt.Sprintf("and %d more", n-maxAbsent))
	}
	if len(a.absent) > 0 {
		parts = append(parts, "not to be had: "+strings.Join(a.absent, ", "))
	}
	return strings.Join(parts, "; ")
}

func (a *asking) missing(what string, err error) {
	code := "unknown"
	if all := fault.All(err); len(all) > 0 {
		code = all[0].Code
	}
	a.mu.Lock()
	a.absent = append(a.absent, fmt.Sprintf("%s (%s)", what, code))
	a.mu.Unlock()
	if a.s.Logger != nil {
		a.s.Logger.LogAttrs(a.ctx, slog.LevelWarn, "asking for GPU collateral failed", slog.String("what", what), slog.Any("error", err))
	}
}

func (a *asking) rim(id string) {
	if a.asked[id] {
		return
	}
	a.asked[id] = true
	a.group.Go(func() error {
		r, err := a.s.Client.RIM(a.ctx, id)
		if err != nil {
			a.missing(id, err)
			return nil
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.count(kindRIM, r.From)
		a.out.RIMs = append(a.out.RIMs, r.Raw)
		a.signers = append(a.signers, r.Doc.Chain)
		return nil
	})
}

// status asks for each certificate of a chain that is not the last.
func (a *asking) status(chain []*x509.Certificate) {
	for i := range len(chain) - 1 {
		cert, issuer := chain[i], chain[i+1]
		if a.asked[string(cert.Raw)] {
			continue
		}
		a.asked[string(cert.Raw)] = true
		a.group.Go(func() error {
			der, from, err := a.s.Client.RawOCSP(a.ctx, cert, issuer, a.nonce)
			if err != nil {
				a.missing(cert.Subject.CommonName, err)
				return nil
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			a.count(kindOCSP, from)
			a.out.OCSP = append(a.out.OCSP, der)
			return nil
		})
	}
}
