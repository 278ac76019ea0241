package demo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/hostd/spec"
	"cocoon/internal/fault"
	"cocoon/internal/heldport"
	"cocoon/internal/toncell"
	"cocoon/measurements/digest"
)

// Files of the ledger that a run keeps.
const (
	fileTON           = "global.config.json"
	fileReceipt       = "receipt.json"
	fileVoucher       = "voucher.json"
	fileVerdictCell   = "verdict.cell"
	fileRegistryProof = "registry.proof.json"
	fileJobProof      = "job.proof.json"
)

// guestLedger is where the guest reaches the devnet's lite-server.
const guestLedger = "10.0.2.102:4924"

// chainParts is the demo's devnet and what stands on it.
type chainParts struct {
	dir      string
	listen   string
	id       int32 // TON global id
	client   *chain.Client
	ledger   *ledger.Ledger
	owner    chain.Sender    // sends the owners' orders
	owners   []string        // seed files
	tenant   toncell.Address // the client's wallet
	operator chain.Sender    // of the worker's owner: the payout address
	payout   toncell.Address
	registry toncell.Address
	job      toncell.Address
}

func (r *run) startLedger(ctx context.Context) error {
	r.begin("ledger", "start a TON devnet (the real TVM), deploy the registry")
	port, err := heldport.Hold("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer port.Release()
	c := &chainParts{dir: r.temp("devnet"), listen: port.String()}
	s, err := r.service("devnet", "cocoon", "devnet", "--dir", c.dir, "--listen", c.listen, "--config-out", r.keep(fileTON))
	if err != nil {
		return err
	}
	admin := devnet.NewAdmin(c.dir)
	if err := s.waitFor(ctx, 3*time.Minute, func() error { _, err := admin.Status(ctx); return err }); err != nil {
		return err
	}
	if c.client, err = chain.OpenFile(r.keep(fileTON), chain.Options{}); err != nil {
		return err
	}
	r.closers = append(r.closers, c.client.Close)
	if c.id, err = c.client.GlobalID(ctx); err != nil {
		return err
	}
	c.ledger = ledger.New(c.client, nil)
	for name, at := range map[string]*chain.Sender{"owner": &c.owner, "operator": &c.operator} {
		key, err := seed(r.temp(name + ".seed"))
		if err != nil {
			return err
		}
		if *at, err = c.client.Wallet(ctx, key); err != nil {
			return err
		}
		if _, err := admin.Faucet(ctx, (*at).Address(), (100 * coin.TON).Big()); err != nil {
			return err
		}
	}
	if c.payout, err = toncell.FromAddr(c.operator.Address()); err != nil {
		return err
	}
	if c.tenant, err = r.newWallet(ctx); err != nil {
		return err
	}
	if _, err := admin.Faucet(ctx, c.tenant.Addr(), (100 * coin.TON).Big()); err != nil {
		return err
	}
	state, err := r.newRegistry(c)
	if err != nil {
		return err
	}
	if c.registry, err = c.ledger.DeployRegistry(ctx, c.owner, state, coin.TON); err != nil {
		return err
	}
	r.chain, r.rep.Job.Registry = c, c.registry.String()
	r.note("network id %d, registry %s, changed by 2 of 3 owners after a time lock of %s", c.id, c.registry, timeLock)
	return nil
}

// newWallet makes the client's wallet as clients have it: with a passphrase, a
// journal and caps.
func (r *run) newWallet(ctx context.Context) (toncell.Address, error) {
	if err := os.WriteFile(r.temp("passphrase"), []byte(rand.Text()+"\n"), 0o600); err != nil {
		return toncell.Address{}, fmt.Errorf("making a passphrase: %w", err)
	}
	out, err := r.command(ctx, "cocoon", "wallet", "new", r.temp("wallet"), "--config", r.keep(fileTON),
		"--day-cap", "20", "--job-cap", "5", "--passphrase-file", r.temp("passphrase"), "--json")
	if err != nil {
		return toncell.Address{}, err
	}
	var made struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal(out, &made); err != nil {
		return toncell.Address{}, fmt.Errorf("reading the wallet's report: %w", err)
	}
	return toncell.ParseAddress(made.Address)
}

// wallet returns the flags with which a command pays from the client's wallet.
func (r *run) wallet(args ...string) []string {
	return append(args, "--config", r.keep(fileTON), "--key", r.temp("wallet"), "--passphrase-file", r.temp("passphrase"))
}

// timeLock of the demo's registry: short, where a network's owners take days.
const timeLock = 2 * time.Second

// newRegistry returns the state of an empty development registry with three
// owners, of whom two must sign.
func (r *run) newRegistry(c *chainParts) (*registry.State, error) {
	var public []ed25519.PublicKey
	for i := range 3 {
		path := r.temp(fmt.Sprintf("owner%d.seed", i+1))
		key, err := seed(path)
		if err != nil {
			return nil, err
		}
		public, c.owners = append(public, key.Public().(ed25519.PublicKey)), append(c.owners, path)
	}
	owners := registry.NewOwners(2, public...)
	owners.Delay = timeLock
	return registry.New(owners, true), nil
}

// publish lists the verifier's key, its policy, the manifest and the model in
// the registry: one order of two owners, which waits the time lock.
func (r *run) publish(ctx context.Context, policy digest.SHA256) error {
	c := r.chain
	model, err := packVerity(r.packs, "model")
	if err != nil {
		return err
	}
	at, order := c.registry.String(), r.temp("order.json")
	if _, err := r.command(ctx, "cocoon", "registry", "propose", at, "verifier="+hex.EncodeToString(r.verifierKey[:]), "policy="+policy.String(),
		"manifest="+r.manifestHash.String(), "model="+model.Root.String()+","+modelName,
		"--config", r.keep(fileTON), "--owner-key", c.owners[0], "--out", order); err != nil {
		return err
	}
	out, err := r.command(ctx, "cocoon", "registry", "approve", order, "--config", r.keep(fileTON), "--owner-key", c.owners[1],
		"--key", r.temp("owner.seed"), "--json")
	if err != nil {
		return err
	}
	var sent struct {
		Number uint64 `json:"number"`
		Sent   bool   `json:"sent"`
	}
	if err := json.Unmarshal(out, &sent); err != nil {
		return fmt.Errorf("reading the order's report: %w", err)
	}
	if !sent.Sent {
		return fault.New(fault.ExitInternal, "demo.order", "please report it", "sending the owners' order: it has too few signatures: %s", out)
	}
	r.note("order %d of two owners is pending; any owner could veto it for %s", sent.Number, timeLock)
	select {
	case <-time.After(timeLock + time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	if _, err := r.command(ctx, "cocoon", "registry", "execute", at, fmt.Sprint(sent.Number), "--config", r.keep(fileTON), "--key", r.temp("owner.seed")); err != nil {
		return err
	}
	if out, err = r.command(ctx, "cocoon", "registry", "show", at, "--config", r.keep(fileTON)); err != nil {
		return err
	}
	if !bytes.Contains(out, []byte(r.manifestHash.String()+" active")) {
		return fault.New(fault.ExitInternal, "demo.registry", "please report it", "the registry does not list the manifest: %s", out)
	}
	r.note("registry lists the manifest, the model, the policy and the verifier's key (k = 1)")
	return nil
}

// seed makes an Ed25519 seed file as the command line reads it.
func seed(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	if err := os.WriteFile(path, []byte(hex.EncodeToString(key.Seed())+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

// spec gives a guest the network's description, with the lite-server at the
// address where the guest reaches it, and the way there.
func (c *chainParts) spec(s *spec.Spec, global, path string) error {
	b, err := os.ReadFile(global)
	if err != nil {
		return fmt.Errorf("reading network config: %w", err)
	}
	doc, err := redirect(b, netip.MustParseAddrPort(guestLedger))
	if err != nil {
		return err
	}
	if err := writeFile(path, doc); err != nil {
		return err
	}
	s.FwCfg = map[string]string{"ton-global.json": path}
	s.Forwards = append(s.Forwards, spec.Forward{Guest: guestLedger, Target: c.listen})
	return nil
}

// redirect replaces the lite-servers' address in a global.config.json; keys
// and init block, which are what counts, stay.
func redirect(doc []byte, to netip.AddrPort) ([]byte, error) {
	var cfg map[string]json.RawMessage
	if err := json.Unmarshal(doc, &cfg); err != nil {
		return nil, fmt.Errorf("reading network config: %w", err)
	}
	var servers []map[string]json.RawMessage
	if err := json.Unmarshal(cfg["liteservers"], &servers); err != nil {
		return nil, fmt.Errorf("reading network config: %w", err)
	}
	a := to.Addr().As4()
	ip := int32(uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3]))
	for _, s := range servers {
		s["ip"], s["port"] = json.RawMessage(fmt.Sprint(ip)), json.RawMessage(fmt.Sprint(to.Port()))
	}
	var err error
	if cfg["liteservers"], err = json.Marshal(servers); err != nil {
		return nil, fmt.Errorf("writing network config: %w", err)
	}
	return json.Marshal(cfg)
}
