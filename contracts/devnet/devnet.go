// Package devnet is a TON chain for development in one process: it executes
// messages with the real TVM (package tvm), makes signed blocks and Merkle
// proofs, speaks the lite-server protocol over ADNL, and keeps everything on
// disk. Clients use it exactly like testnet or mainnet: a global.config.json
// names it, and nothing else tells the three apart.
//
// Accounts, transactions, fees, storage debts, bounces and gas are the node's
// own. A height has one block of workchain 0 (one shard) and one master block;
// blocks are made on demand: for an external message, together with all that
// follows from it, for a client that waits for the next height, and when a
// client asks for the newest block and that is older than five seconds.
// Internal messages are delivered in the node's order, (created_lt, hash), in
// the same block up to a limit and otherwise in the next.
//
// What differs from a real network: one validator, whose key is on disk; every
// master block is a key block, so one signed link leads from the init block to
// any later one, and there are no links backwards; block descriptors of
// messages and the out queue of a state are empty (waiting messages are kept
// beside the state); no masterchain accounts, so no DNS root, elector or
// config contract, and messages to workchain -1 are set aside; no public
// libraries; states of heights older than 1024 blocks, or from before a
// restart, are gone, as on a node that is not an archive.
//
// The chain's clock is the host's plus what Advance added. Time travel and the
// faucet are for development: they are methods here and calls on a Unix socket
// in the chain's directory, not lite-server queries.
package devnet

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
	"cocoon/internal/heldport"
)

// GlobalID is the devnet's network id (config parameter 19); mainnet is -239
// and testnet -3.
const GlobalID = -1009

// DefaultListen is the lite-server's default address.
const DefaultListen = "127.0.0.1:40443"

// DefaultQuiet is how long a client that waits for the next height waits for
// somebody's message before it gets an empty block.
const DefaultQuiet = 100 * time.Millisecond

// ConfigFile is the name of the network config inside the chain's directory.
const ConfigFile = "global.config.json"

// Options configure a Devnet.
type Options struct {
	// Dir keeps the chain; it is created if it does not exist. Required.
	Dir string
	// Listen is the lite-server's IPv4 address; empty means DefaultListen,
	// port 0 any free port (chosen anew at each start).
	Listen string
	// TVM runs contracts; nil opens one with TVMDir, which Close closes.
	TVM    *tvm.Engine
	TVMDir string
	// Clock is the host's clock; nil means time.Now.
	Clock func() time.Time
	// Quiet overrides DefaultQuiet; 0 means DefaultQuiet.
	Quiet time.Duration
	// Seed makes the keys of a new chain (validator, server, faucet, wallets)
	// from a text instead of at random; with a fixed Clock, equal messages then
	// give equal blocks. Anyone who knows the text owns the chain.
	Seed string
	// Wallets is how many funded wallets a new chain has; see Devnet.Wallets.
	Wallets int
	// More are further lite-servers of the chain, on free ports of the same
	// address; the config lists them behind the first. Each may lie like Alter.
	More []func(query, answer any) any
	// Alter, where set, changes answers before they are sent: a lite-server
	// that lies, for tests of clients. query and answer are tonutils-go's types.
	Alter func(query, answer any) any
	// Logger may be nil.
	Logger *slog.Logger
}

// Devnet is a running chain.
type Devnet struct {
	dir    string
	chain  *chain
	store  *store
	server *server
	more   []*server
	addrs  []*net.TCPAddr // of more
	admin  *admin
	engine *tvm.Engine // if owned
	id     *identity
	addr   *net.TCPAddr
	first  ton.BlockIDExt

	wallets []Wallet
}

// Start opens the chain in o.Dir, or makes a new one, and serves it. It writes
// global.config.json into the directory.
func Start(ctx context.Context, o Options) (_ *Devnet, err error) {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	clock := o.Clock
	if clock == nil {
		clock = time.Now
	}
	if o.Dir == "" {
		return nil, fault.New(fault.ExitInternal, "ton.devnet.no_dir", "name a directory", "starting a devnet: no directory")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the devnet's directory: %w", err)
	}
	d := &Devnet{dir: o.Dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	port, err := holdPort(o.Listen)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, port.Release()) }()
	d.addr = &port.Addr
	engine := o.TVM
	if engine == nil {
		if d.engine, err = tvm.Open(ctx, tvm.Options{Dir: o.TVMDir, Logger: log}); err != nil {
			return nil, err
		}
		engine = d.engine
	}
	base, err := tvm.DefaultConfig(o.TVMDir)
	if err != nil {
		return nil, err
	}
	if d.store, err = openStore(o.Dir); err != nil {
		return nil, err
	}
	if err := d.openChain(ctx, o, engine, base, clock, log); err != nil {
		return nil, err
	}
	if err := d.writeWalletKeys(); err != nil {
		return nil, err
	}
	quiet := o.Quiet
	if quiet == 0 {
		quiet = DefaultQuiet
	}
	srv := newServer(d.chain, ed25519.NewKeyFromSeed(d.id.Server), quiet, log)
	srv.alter = o.Alter
	if err := srv.listen(d.addr.String()); err != nil {
		return nil, errors.Join(err, srv.close())
	}
	d.server = srv
	for _, alter := range o.More {
		port, err := holdPort(net.JoinHostPort(d.addr.IP.String(), "0"))
		if err != nil {
			return nil, err
		}
		m := newServer(d.chain, ed25519.NewKeyFromSeed(d.id.Server), quiet, log)
		m.alter = alter
		if err := errors.Join(m.listen(port.String()), port.Release()); err != nil {
			return nil, errors.Join(err, m.close())
		}
		d.more, d.addrs = append(d.more, m), append(d.addrs, &port.Addr)
	}
	if d.admin, err = startAdmin(d, filepath.Join(o.Dir, adminSocket)); err != nil {
		return nil, err
	}
	cfg, err := d.ConfigJSON()
	if err != nil {
		return nil, err
	}
	return d, writeFile(filepath.Join(o.Dir, ConfigFile), cfg, 0o644)
}

// writeFile replaces a file whole or not at all.
func writeFile(path string, b []byte, mode os.FileMode) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// holdPort resolves the listen address and holds its port, for port 0 one that
// is free: the library does not say where it listens, and opening the chain
// comes first.
func holdPort(listen string) (*heldport.Port, error) {
	if listen == "" {
		listen = DefaultListen
	}
	p, err := heldport.Hold(listen)
	if err != nil {
		return nil, listenFault(listen, err)
	}
	return p, nil
}

// Close stops serving and closes the store. What clients were told is on disk
// already; a killed process loses nothing more than this does.
func (d *Devnet) Close() error {
	var errs []error
	if d.admin != nil {
		errs = append(errs, d.admin.close())
	}
	if d.server != nil {
		errs = append(errs, d.server.close())
	}
	for _, m := range d.more {
		errs = append(errs, m.close())
	}
	if d.store != nil {
		errs = append(errs, d.store.close())
	}
	if d.engine != nil {
		errs = append(errs, d.engine.Close(context.Background()))
	}
	return errors.Join(errs...)
}

// Addr returns the lite-server's address.
func (d *Devnet) Addr() string { return d.addr.String() }

// Config returns the network config that clients of this chain use.
func (d *Devnet) Config() *liteclient.GlobalConfig {
	pub := ed25519.NewKeyFromSeed(d.id.Server).Public().(ed25519.PublicKey)
	ip := d.addr.IP.To4()
	if ip.IsUnspecified() {
		ip = net.IPv4(127, 0, 0, 1).To4()
	}
	block := func(seqno uint32, root, file []byte) liteclient.ConfigBlock {
		return liteclient.ConfigBlock{Workchain: masterchain, Shard: wholeShard, SeqNo: seqno, RootHash: root, FileHash: file}
	}
	var servers []liteclient.LiteserverConfig
	for _, a := range append([]*net.TCPAddr{d.addr}, d.addrs...) {
		servers = append(servers, liteclient.LiteserverConfig{
			IP: int64(int32(binary.BigEndian.Uint32(ip))), Port: a.Port,
			ID: liteclient.ServerID{Type: "pub.ed25519", Key: base64.StdEncoding.EncodeToString(pub)},
		})
	}
	return &liteclient.GlobalConfig{
		Type:        "config.global",
		DHT:         liteclient.DHTConfig{Type: "dht.config.global", K: 6, A: 3, StaticNodes: liteclient.DHTNodes{Type: "dht.nodes"}},
		Liteservers: servers,
		Validator: liteclient.ValidatorConfig{
			Type:      "validator.config.global",
			ZeroState: block(0, d.id.ZeroRoot[:], d.id.ZeroFile[:]),
			InitBlock: block(d.first.SeqNo, d.first.RootHash, d.first.FileHash),
			Hardforks: []liteclient.ConfigBlock{},
		},
	}
}

// ConfigJSON returns Config as the contents of a global.config.json.
func (d *Devnet) ConfigJSON() ([]byte, error) {
	b, err := json.MarshalIndent(d.Config(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the network config: %w", err)
	}
	return append(b, '\n'), nil
}

// Now returns the chain's time.
func (d *Devnet) Now() time.Time { return d.chain.now() }

// Seqno returns the newest height.
func (d *Devnet) Seqno() uint32 { return d.chain.lastHeight().seqno }

// Advance moves the chain's clock forward for good and makes a block there.
func (d *Devnet) Advance(ctx context.Context, by time.Duration) error {
	return d.chain.advance(ctx, by)
}

// Faucet sends nanotons to an address; they have arrived when it returns.
// The message does not bounce, so that it can fund what is not deployed yet.
func (d *Devnet) Faucet(ctx context.Context, to *address.Address, nano *big.Int) error {
	if to == nil || to.Type() != address.StdAddress || to.Workchain() != basechain {
		return fault.New(fault.ExitInternal, "ton.devnet.bad_address", "name an address in workchain 0", "funding an account: bad address")
	}
	if nano == nil || nano.Sign() <= 0 {
		return fault.New(fault.ExitInternal, "ton.devnet.bad_amount", "name a positive amount", "funding an account: bad amount")
	}
	d.chain.produce.Lock()
	defer d.chain.produce.Unlock()
	from, err := faucetAddress(d.id.Faucet)
	if err != nil {
		return err
	}
	account := d.chain.lastHeight().accounts.get(from.Data())
	if account == nil {
		return fault.New(fault.ExitRefused, "ton.devnet.faucet_empty", "start a new chain", "funding an account: the faucet is gone")
	}
	msg, err := faucetMessage(d.id.Faucet, account, to, nano, uint32(d.chain.now().Add(time.Minute).Unix()))
	if err != nil {
		return err
	}
	if err := d.chain.makeBlocks(ctx, msg); err != nil {
		return fmt.Errorf("funding %s: %w", to, err)
	}
	return nil
}

// openChain loads the stored chain or starts one.
func (d *Devnet) openChain(ctx context.Context, o Options, engine *tvm.Engine, base *cell.Cell, clock func() time.Time, log *slog.Logger) error {
	id, err := d.store.identity()
	if err != nil {
		return err
	}
	fresh := id == nil
	if fresh {
		if id, err = newIdentity(GlobalID, uint32(clock().Unix()), o); err != nil {
			return err
		}
	}
	if err := id.check(); err != nil {
		return err
	}
	d.id = id
	params, err := newChainParams(base, ed25519.NewKeyFromSeed(id.Validator), id.GlobalID)
	if err != nil {
		return err
	}
	d.chain = &chain{params: params, engine: engine, store: d.store, log: log, clock: clock,
		recent: map[uint32]*height{}, arrived: make(chan struct{})}
	if err := d.chain.load(id, fresh); err != nil {
		return err
	}
	first, err := d.chain.bySeqno(1)
	if err != nil {
		return err
	}
	d.first = first.master
	if fresh {
		return nil
	}
	// Messages that waited when the process ended go out now.
	d.chain.produce.Lock()
	defer d.chain.produce.Unlock()
	return d.chain.makeBlocks(ctx, nil)
}
