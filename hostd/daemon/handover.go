package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/evidence"
)

// Material is what a host brings to a hand-over: the images' manifests and what
// a verifier needs beside the machines' evidence. All of it is signed, or named
// by a hash elsewhere.
type Material struct {
	Own, Peer                     []byte // DSSE envelopes
	OwnCollateral, PeerCollateral []byte // empty: none
}

// Carry carries one hand-over between the guests that connect to l: the one
// that has the data disk's key, and the one that takes it. It returns the
// ticket with which the next version opens the disk. met is told who is there.
type Carry func(ctx context.Context, l net.Listener, m Material, met func(role string)) (ticket []byte, err error)

// CodeHandover is the code of a hand-over that cannot be.
const CodeHandover = "vm.upgrade.handover"

const (
	takerSuffix  = "-takeover"
	ticketName   = "ticket.json" // below the guest's fw_cfg prefix, and in the VM's directory
	takeoverName = "takeover.json"
	stageTaken   = "takeover" // of the guest that takes
	// carryWithin bounds a hand-over: the boot of the machine that takes, and
	// the minute after which the one that gives looks for the host again.
	carryWithin = 15 * time.Minute
	// takerGrace is what that machine has to end by itself, with the ticket made.
	takerGrace = 10 * time.Second
)

// handing is what an upgrade has to carry over.
type handing struct {
	taker    spec.Spec
	operator []byte // of the machine that takes
	listen   string
	material Material
}

// planHandover says what has to be carried before one version makes way for the
// next; nil where nothing has. What cannot be carried is refused here, where it
// costs no running VM: who gives and who takes decide by themselves again
// (enclave/handover), this only spares two boots and an outage.
func (d *Daemon) planHandover(from, to *spec.Spec, running bool, until string) (*handing, error) {
	if to.Handover == nil || from.DataDisk == nil || to.DataDisk == nil || from.DataDisk.Path != to.DataDisk.Path || to.FwCfg[ticketName] != "" {
		return nil, nil
	}
	refuse := func(remedy, format string, args ...any) error {
		return fault.New(fault.ExitNotReady, CodeHandover, remedy, "handing the data disk of VM "+from.Name+" over: "+format, args...)
	}
	const again = "put it into the spec of the running version, start that once more, then upgrade"
	if from.Handover == nil {
		return nil, refuse(again, "the running version's spec has no handover")
	}
	h := &handing{}
	own, err := readManifest(from.Handover.Manifest, &h.material.Own)
	if err != nil {
		return nil, err
	}
	peer, err := readManifest(to.Handover.Manifest, &h.material.Peer)
	if err != nil {
		return nil, err
	}
	if own.SHA256 == peer.SHA256 {
		return nil, nil // the same measurements unseal the same key
	}
	var errs []error
	bad := func(remedy, format string, args ...any) { errs = append(errs, refuse(remedy, format, args...)) }
	mismatch := func(what, expected, actual, remedy string) {
		errs = append(errs, fault.Mismatch(fault.ExitNotReady, CodeHandover, what, expected, actual, remedy))
	}
	if a, b := own.Manifest.Image, peer.Manifest.Image; a.Name != b.Name || b.Version <= a.Version {
		mismatch("the new image", fmt.Sprintf("%s after version %d", a.Name, a.Version), fmt.Sprintf("%s version %d", b.Name, b.Version),
			"upgrade to a later version of the same image; there is no way back with data")
	}
	if d.o.Carry == nil {
		bad("use cocoon vm handover", "this daemon carries none")
	}
	if !running {
		bad("start the old version first: its VM is the one that has the key", "the old version does not run")
	}
	if until != DefaultUntil {
		bad("leave the stage out", "the new version has the disk's key for good only once it is %s, and is to reach %s alone", DefaultUntil, until)
	}
	if len(to.FwCfg) >= spec.MaxFwCfg {
		bad("leave one out", "the ticket is one fw_cfg file more than there may be")
	}
	if len(from.Name)+len(takerSuffix) > spec.MaxName {
		bad("choose a shorter name", "the machine that takes it is called %s, a name of at most %d characters", from.Name+takerSuffix, spec.MaxName)
	}
	if _, err := d.store.Get(from.Name + takerSuffix); !errors.Is(err, store.ErrNotFound) {
		errs = append(errs, takerThere(from.Name, from.Name+takerSuffix, err))
	}
	if from.GPUs != nil && to.GPUs != nil && slices.ContainsFunc(to.GPUs.Devices, func(b string) bool { return slices.Contains(from.GPUs.Devices, b) }) {
		bad("give the new version other devices, or begin with an empty data disk", "both versions have to run at once, and have GPUs in common")
	}
	errs = append(errs, h.readGuests(from, to, bad, mismatch))
	for _, c := range []struct {
		path string
		to   *[]byte
	}{{from.Handover.Collateral, &h.material.OwnCollateral}, {to.Handover.Collateral, &h.material.PeerCollateral}} {
		if c.path != "" {
			b, err := readFile(c.path, evidence.MaxEvidence)
			errs = append(errs, err)
			*c.to = b
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	h.taker = *to
	h.taker.Name, h.taker.DataDisk, h.taker.Handover, h.taker.Restart = from.Name+takerSuffix, nil, nil, spec.RestartNo
	h.taker.Operator = filepath.Join(d.dir(from.Name), takeoverName)
	return h, nil
}

// readGuests reads what both guests are told, and where they look for the host.
func (h *handing) readGuests(from, to *spec.Spec, bad func(remedy, format string, args ...any), mismatch func(what, expected, actual, remedy string)) error {
	var docs, configs [2][]byte
	var ops [2]*evidence.Operator
	var at [2]string
	for i, s := range []*spec.Spec{from, to} {
		which := []string{"running", "new"}[i]
		var err error
		if configs[i], err = readFile(s.Config, evidence.MaxConfig); err != nil {
			return err
		}
		if docs[i], err = readFile(s.Operator, evidence.MaxConfig); err != nil {
			return err
		}
		if ops[i], err = evidence.ParseOperator(docs[i]); err != nil {
			return fault.New(fault.ExitParse, CodeHandover, "correct operator.json", "reading the %s version's operator.json: %w", which, err)
		}
		k := slices.IndexFunc(s.Forwards, func(f spec.Forward) bool { return f.Guest == ops[i].Handover })
		switch {
		case ops[i].Handover == "":
			bad("name an address there, and forward it to a free port of this host", "the %s version's operator.json has no handover", which)
		case k < 0:
			bad("forward it to a free port of this host", "the %s version has no forward of %s, where it looks for the hand-over", which, ops[i].Handover)
		case strings.HasPrefix(s.Forwards[k].Target, "unix:"):
			bad("forward it to a free port of this host", "the %s version's forward of %s is not to host:port", which, ops[i].Handover)
		default:
			at[i] = s.Forwards[k].Target
		}
	}
	if a, b := digest.Sum256(configs[0]), digest.Sum256(configs[1]); a != b {
		mismatch("the new version's config", a.String(), b.String(), "start both versions with one config.json")
	}
	if ops[0].Payout != ops[1].Payout {
		mismatch("the new version's payout address", ops[0].Payout, ops[1].Payout, "start both versions with one payout address")
	}
	if at[0] != "" && at[1] != "" && at[0] != at[1] {
		mismatch("where the new version's hand-over is forwarded to", at[0], at[1], "forward both to one port of this host")
	}
	if ops[1].Takeover {
		bad("take it out: the upgrade sets it for the machine that takes the key", "the new version's operator.json has takeover")
	}
	next := *ops[1]
	next.Takeover = true
	var err error
	h.listen = at[1]
	h.operator, err = json.Marshal(next)
	return err
}

// handOver starts the machine that takes, carries the key to it, and keeps the
// ticket beside the VM. The old version serves meanwhile. The journal names
// what there is to take back before it is there.
func (d *Daemon) handOver(ctx context.Context, r *store.Record, h *handing) (ticket string, err error) {
	name := r.Upgrade.From.Name
	// Under the claim, so that what the journal names is this upgrade's own.
	claimed, err := d.claim(h.taker.Name)
	if err != nil {
		return "", err
	}
	free := sync.OnceFunc(claimed)
	defer free()
	if _, err := d.store.Get(h.taker.Name); !errors.Is(err, store.ErrNotFound) {
		return "", takerThere(name, h.taker.Name, err)
	}
	r.Upgrade.Taker = h.taker.Name
	if err := d.step(r, StepHandOver); err != nil {
		return "", err
	}
	if err := os.WriteFile(h.taker.Operator, h.operator, 0o600); err != nil {
		return "", fmt.Errorf("writing operator.json of the machine that takes: %w", err)
	}
	l, err := net.Listen("tcp", h.listen)
	if err != nil {
		return "", fault.New(fault.ExitNotReady, CodeHandover, "forward the guests' handover to a free port of this host", "waiting for the machines: %w", err)
	}
	defer l.Close()
	if _, err := d.start(ctx, &h.taker, nil); err != nil {
		return "", err
	}
	free()
	limited, cancel := context.WithTimeout(ctx, carryWithin)
	defer cancel()
	carrying, stop := context.WithCancelCause(limited)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		d.watchHandover(carrying, name, h.taker.Name, stop)
	}()
	doc, err := d.o.Carry(carrying, l, h.material, func(role string) { d.o.Logger.Info("hand-over: a machine is here", "vm", name, "role", role) })
	if err == nil && (len(doc) == 0 || len(doc) > spec.MaxFwCfgSize) {
		err = fault.New(fault.ExitParse, CodeHandover, "report this", "keeping the ticket: it has %d bytes", len(doc))
	}
	if cause := context.Cause(carrying); err != nil && cause != nil {
		err = errors.Join(cause, err)
	}
	stop(nil)
	<-watched
	if err != nil {
		return "", err
	}
	ticket = filepath.Join(d.dir(name), ticketName)
	// Not synced: where this host goes down before the upgrade has ended, the
	// old version is back.
	if err := os.WriteFile(ticket, doc, 0o600); err != nil {
		return "", fmt.Errorf("keeping the ticket: %w", err)
	}
	d.awaitEnd(ctx, h.taker.Name)
	return ticket, d.removeTaker(ctx, h.taker.Name)
}

// takerThere refuses a hand-over whose second machine would take a VM's name.
func takerThere(name, taker string, err error) error {
	return fault.New(fault.ExitNotReady, CodeHandover, "remove that VM: cocoon vm remove "+taker, "handing the data disk of VM %s over: there is a VM %s (%v)", name, taker, err)
}

// watchHandover ends a hand-over that cannot come about any more.
func (d *Daemon) watchHandover(ctx context.Context, giver, taker string, stop context.CancelCauseFunc) {
	t := time.NewTicker(verifyEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if st, err := d.Get(giver); err != nil || st.Over() {
			stop(errors.Join(fault.New(fault.ExitNotReady, CodeHandover, "see why it ended: cocoon vm show "+giver, "handing the data disk over: the old version ended"), err))
			return
		}
		st, err := d.Get(taker)
		if err == nil {
			_, err = st.Reached(stageTaken)
		}
		if err != nil {
			stop(err)
			return
		}
	}
}

// awaitEnd gives the machine that took the key the time to end by itself.
func (d *Daemon) awaitEnd(ctx context.Context, taker string) {
	began := time.Now()
	for time.Since(began) < takerGrace {
		if st, err := d.Get(taker); err != nil || st.Over() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(verifyEvery):
		}
	}
}

// clearHandover takes back what a hand-over has left on the host: the machine
// that takes, and the ticket. The disk is as it was, since the next version
// alone writes to it.
func (d *Daemon) clearHandover(ctx context.Context, up *store.Upgrade) error {
	if up.Taker == "" {
		return nil
	}
	err := d.removeTaker(ctx, up.Taker)
	for _, f := range []string{ticketName, takeoverName} {
		if rerr := os.Remove(filepath.Join(d.dir(up.From.Name), f)); !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

func (d *Daemon) removeTaker(ctx context.Context, name string) error {
	if _, err := d.store.Get(name); errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if _, err := d.end(ctx, name, true); err != nil {
		return err
	}
	done, err := d.claimSoon(ctx, name)
	if err != nil {
		return err
	}
	d.release(ctx, name)
	done()
	return d.Remove(name)
}

// withTicket is a version's first start after a hand-over.
func withTicket(s *spec.Spec, ticket string) *spec.Spec {
	if ticket == "" {
		return s
	}
	out := *s
	out.FwCfg = maps.Clone(s.FwCfg)
	if out.FwCfg == nil {
		out.FwCfg = map[string]string{}
	}
	out.FwCfg[ticketName] = ticket
	return &out
}

// sealedAway adds to a failure what it comes from, where a new image was not
// given the old one's key.
func sealedAway(r store.Record, err error) error {
	if up := r.Upgrade; up.Taker == "" && up.To.DataDisk != nil && fault.Has(err, "seal.key_not_released") {
		return errors.Join(err, fault.New(fault.ExitNotReady, CodeHandover, "name both images' manifests in the specs' handover, on tdx and snp: docs/operators.md; or begin with an empty data disk",
			"upgrading VM %s: the data disk's key was not handed over to the new version", up.To.Name))
	}
	return err
}

func readManifest(path string, env *[]byte) (*manifest.Verified, error) {
	b, err := readFile(path, manifest.MaxEnvelope)
	if err != nil {
		return nil, err
	}
	*env = b
	m, err := manifest.Read(b, nil)
	if err != nil {
		return nil, fault.New(fault.ExitParse, CodeHandover, "name the image's manifest as it was published", "reading %s: %w", path, err)
	}
	return m, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if err == nil && (!fi.Mode().IsRegular() || fi.Size() > limit) {
		err = fmt.Errorf("%s is not a regular file of at most %d bytes", path, limit)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, CodeHandover, "correct the path in the spec", "reading what a hand-over needs: %w", err)
	}
	return b, nil
}
