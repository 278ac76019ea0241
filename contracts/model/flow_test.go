package model_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/devnettest"
	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/internal/toncell"
)

// drive is the executor whose chain, worker and client are each its own process,
// which it kills meanwhile.
type drive struct {
	flow
	t       testing.TB
	ctx     context.Context
	r       *run
	rng     *rand.Rand // beside the sequence's, which is the same for all executors
	dir     string
	chain   *chain.Client
	began   time.Time
	wallets map[string]toncell.Address
	names   map[toncell.Address]string
	// registry is the contract.
	registry toncell.Address

	lines chan string
	procs map[string]*child
	next  []string // to be killed
	kills map[string]int
	id    uint64 // of the last command
	lts   map[toncell.Address]uint64

	actions, own, purchases uint64
	journals
}

type child struct {
	*exec.Cmd
	in *json.Encoder
}

var roles = []string{roleDevnet, roleWorker, roleClient}

// holders says in which process a wallet is.
var holders = map[string]string{
	"client": roleClient, "gateway": roleClient, "anyone": roleClient,
	"payout": roleWorker, "owner": roleWorker, "registry": roleWorker,
}

func newDrive(t testing.TB, limit time.Duration) *drive {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	netDir := t.TempDir()
	net := devnettest.Start(t, devnet.Options{TVM: engine, Dir: netDir})
	d := &drive{
		t: t, ctx: ctx, rng: rand.New(rand.NewPCG(9, 9)), dir: t.TempDir(), chain: devnettest.Open(t, net, engine), began: net.Now().UTC().Truncate(time.Second),
		wallets: map[string]toncell.Address{}, names: map[toncell.Address]string{}, lines: make(chan string, 1<<16), procs: map[string]*child{},
		kills: map[string]int{}, lts: map[toncell.Address]uint64{}, journals: journals{resumed: map[string]int{}},
	}
	cfg, err := net.ConfigJSON()
	d.ok(err)
	d.flow = flow{Listen: net.Addr(), Config: cfg, NetDir: netDir}
	for name := range holders {
		w, err := d.chain.Wallet(ctx, key(name))
		d.ok(err)
		d.ok(net.Faucet(ctx, w.Address(), (1_000_000 * coin.TON).Big()))
		d.wallets[name], err = toncell.FromAddr(w.Address())
		d.ok(err)
		d.names[d.wallets[name]] = name
	}
	reg := registry.New(registry.NewOwners(1, key("registry owner").Public().(ed25519.PublicKey)), true)
	reg.AddVerifier(key("verifier").Public().(ed25519.PublicKey), d.began)
	reg.Manifests[sum("manifest")] = registry.Manifest{State: registry.Active}
	reg.Manifests[sum("old manifest")] = registry.Manifest{State: registry.Grace, GraceUntil: end}
	for _, name := range []string{"model", "other"} {
		reg.Models[sum(name)] = registry.Model{NameHash: sum("name"), Active: true}
	}
	reg.Policies[sum("policy")], reg.Policies[sum("other policy")] = d.began, d.began
	d.feeCap = reg.FeeCapBps
	w, err := d.chain.Wallet(ctx, key("anyone"))
	d.ok(err)
	d.registry, err = ledger.New(d.chain, nil).DeployRegistry(ctx, w, reg, 1000*coin.TON)
	d.ok(err)
	doc, err := json.Marshal(d.flow)
	d.ok(err)
	d.ok(os.WriteFile(filepath.Join(d.dir, "flow.json"), doc, 0o600))
	devnettest.Close(t, net)
	t.Cleanup(func() {
		for _, c := range d.procs {
			_ = c.Process.Kill() // may be gone
			_ = c.Wait()
		}
	})
	for _, role := range roles {
		d.spawn(role)
	}
	return d
}

func (d *drive) ok(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatalf("action %d through processes: %v", d.actions, err)
	}
}

func (d *drive) spawn(role string) {
	d.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestFlowChild$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), envRole+"="+role, envDir+"="+d.dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	d.ok(err)
	out, err := cmd.StdoutPipe()
	d.ok(err)
	d.ok(cmd.Start())
	d.procs[role] = &child{cmd, json.NewEncoder(in)}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			d.lines <- s.Text()
		}
	}()
}

// kill kills one of the three and has it come back.
func (d *drive) kill() string {
	d.t.Helper()
	if len(d.next) == 0 {
		for _, i := range d.rng.Perm(len(roles)) {
			d.next = append(d.next, roles[i])
		}
	}
	role := d.next[0]
	d.next = d.next[1:]
	d.ok(d.procs[role].Process.Kill())
	if err := d.procs[role].Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		d.t.Fatalf("the %s ended by itself: %v", role, err)
	}
	d.kills[role]++
	d.killed(role)
	d.spawn(role)
	return role
}

// await waits until a command has been done, and returns what came of it.
func (d *drive) await(id uint64) string {
	d.t.Helper()
	for {
		select {
		case l := <-d.lines:
			if said, ok := strings.CutPrefix(l, fmt.Sprintf("done %d ", id)); ok {
				return said
			}
			if strings.HasPrefix(l, "--- FAIL") {
				d.t.Fatalf("a child says %s", l)
			}
		case <-d.ctx.Done():
			d.t.Fatalf("action %d through processes stands still", d.actions)
		}
	}
}

// do has a party do something, and may kill any of the three somewhere inside
// it. It returns what the party says of it, nothing where a kill was in between.
func (d *drive) do(role string, c command) string {
	d.t.Helper()
	d.id++
	c.ID, c.Job = d.id, d.n
	d.ok(d.procs[role].in.Encode(c))
	killed := ""
	if d.rng.IntN(5) == 0 {
		time.Sleep(time.Duration(d.rng.IntN(40_000)) * time.Microsecond)
		killed = d.kill()
	}
	if killed == role || killed == roleDevnet {
		return ""
	}
	return d.await(d.id)
}

func (d *drive) account(at toncell.Address) (st *chain.State) {
	d.t.Helper()
	d.ok(retry(d.ctx, func() (err error) { st, err = d.chain.Account(d.ctx, at.Addr()); return err }))
	return st
}

func (d *drive) seqno(name string) uint32 {
	d.t.Helper()
	v5, err := chain.NewV5(key(name).Public().(ed25519.PublicKey), devnet.GlobalID)
	d.ok(err)
	n, err := v5.Seqno(d.account(d.wallets[name]))
	d.ok(err)
	return n
}

// run has a message sent by whoever holds its sender's wallet, with the call
// that client and worker have for it or, where there is none or it refuses by
// itself, as it is. Killed in the middle, they are told again until it is on
// chain, and by the wallet's seqno it is there once. What another contract sends
// is only awaited.
func (d *drive) run(to toncell.Address, m sent, init func() (*tlb.StateInit, toncell.Address, error)) ran {
	d.t.Helper()
	d.actions++
	was := d.account(to)
	if was.LastLT != d.lts[to] && m.body != nil && d.names[m.From] != "" {
		d.t.Fatalf("action %d: transaction %d of %s is nobody's", d.actions, was.LastLT, to)
	}
	name := d.names[m.From]
	if m.by != nil && m.by.Wallet != "" {
		name = m.by.Wallet
	}
	if name != "" {
		d.send(name, to, m, init)
	}
	var st *chain.State
	var txs []*tlb.Transaction
	d.ok(retry(d.ctx, func() (err error) {
		if st, err = d.chain.Account(d.ctx, to.Addr()); err != nil {
			return err
		}
		if st.LastLT == d.lts[to] {
			return fmt.Errorf("a message to %s is under way", to)
		}
		txs, err = d.chain.Transactions(d.ctx, to.Addr(), st, 2)
		return err
	}))
	if len(txs) > 1 && txs[1].LT != d.lts[to] || len(txs) == 1 && d.lts[to] != 0 {
		d.t.Fatalf("action %d: %s has more than one new transaction", d.actions, to)
	}
	d.lts[to] = st.LastLT
	if !sameButQuery(txs[0].IO.In.AsInternal().Body, m.body) {
		d.t.Fatalf("action %d: %s got another message than the one that was sent: %s, not %s", d.actions, to, txs[0].IO.In.AsInternal().Body.Dump(), m.body.Dump())
	}
	out, err := readRan(txs[0])
	d.ok(err)
	if out.in.From != m.From {
		d.t.Fatalf("action %d: the message is from %s, not %s", d.actions, out.in.From, m.From)
	}
	out.balance, out.data = st.Balance.Uint64(), st.Data
	d.hold()
	return out
}

func (d *drive) send(name string, to toncell.Address, m sent, init func() (*tlb.StateInit, toncell.Address, error)) {
	d.t.Helper()
	plain := command{Do: "send", At: to, Bare: &bare{Value: m.Value, Bounce: m.bounce, Body: m.body.ToBOC()}}
	if d.lts[to] == 0 {
		s, _, err := init()
		d.ok(err)
		c, err := tlb.ToCell(s)
		d.ok(err)
		plain.Bare.Init = c.ToBOC()
	}
	c, seqno := plain, d.seqno(name)
	if m.by != nil {
		c = *m.by
	}
	for range 50 {
		c.Wallet, c.Seqno = name, seqno
		said := d.do(holders[name], c)
		for range 20 { // it may be on its way
			if d.seqno(name) != seqno {
				if c.Do != "send" {
					d.own++
				}
				return
			}
			if said != "" {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		switch {
		case said == "":
		case c.Do == "release":
			c.Blindly = true
		default:
			c = plain
		}
	}
	d.t.Fatalf("action %d: %s cannot send to %s", d.actions, name, to)
}

// advance sets the chain's clock forward.
func (d *drive) advance(by time.Duration) {
	d.t.Helper()
	d.ok(retry(d.ctx, func() error { _, err := devnet.NewAdmin(d.NetDir).Advance(d.ctx, by); return err }))
}

// sameButQuery reports whether two messages differ in nothing but their query
// id, which the parties choose themselves.
func sameButQuery(a, b *cell.Cell) bool {
	if a.BitsSize() < 96 || b.BitsSize() < 96 {
		return bytes.Equal(a.Hash(), b.Hash())
	}
	strip := func(c *cell.Cell) []byte {
		s := c.BeginParse()
		op := s.MustLoadUInt(32)
		s.MustLoadUInt(64)
		return cell.BeginCell().MustStoreUInt(op, 32).MustStoreSlice(s.MustPreloadSlice(s.BitsLeft()), s.BitsLeft()).
			MustStoreUInt(uint64(s.RefsNum()), 3).EndCell().Hash()
	}
	if a.RefsNum() != b.RefsNum() || !bytes.Equal(strip(a), strip(b)) {
		return false
	}
	for i := range int(a.RefsNum()) {
		if !bytes.Equal(a.MustPeekRef(i).Hash(), b.MustPeekRef(i).Hash()) {
			return false
		}
	}
	return true
}
