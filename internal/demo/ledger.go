package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/hostd/spec"
	"cocoon/internal/toncell"
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
	owner    chain.Sender // of the registry
	tenant   chain.Sender // of the client
	operator chain.Sender // of the worker's owner: the payout address
	payout   toncell.Address
	registry toncell.Address
	job      toncell.Address
}

func (r *run) startLedger(ctx context.Context) error {
	r.begin("ledger", "start a TON devnet (the real TVM), deploy the registry")
	port, err := freePort()
	if err != nil {
		return err
	}
	c := &chainParts{dir: r.temp("devnet"), listen: fmt.Sprintf("127.0.0.1:%d", port)}
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
	for name, at := range map[string]*chain.Sender{"owner": &c.owner, "client": &c.tenant, "operator": &c.operator} {
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
	owner, err := toncell.FromAddr(c.owner.Address())
	if err != nil {
		return err
	}
	if c.registry, err = c.ledger.DeployRegistry(ctx, c.owner, registry.New(owner, true), coin.TON); err != nil {
		return err
	}
	r.chain, r.rep.Job.Registry = c, c.registry.String()
	r.note("network id %d, registry %s", c.id, c.registry)
	return nil
}

// publish lists the verifier's key, the manifest and the model in the
// registry.
func (r *run) publish(ctx context.Context) error {
	c := r.chain
	model, err := packVerity(r.packs, "model")
	if err != nil {
		return err
	}
	verifier, err1 := registry.SetVerifier(1, ed25519.PublicKey(r.verifierKey[:]), true, 1)
	manifest, err2 := registry.SetManifest(2, r.manifestHash, registry.Active, time.Time{})
	models, err3 := registry.SetModel(3, model.Root, registry.Model{NameHash: sha256.Sum256([]byte(modelName)), Active: true})
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	for _, body := range []*cell.Cell{verifier, manifest, models} {
		if _, err := c.ledger.Administer(ctx, c.owner, c.registry, body); err != nil {
			return err
		}
	}
	r.note("registry lists the manifest, the model and the verifier's key (k = 1)")
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
