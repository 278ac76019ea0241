package earnings

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/hostd/vouchers"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func addr(name string) toncell.Address { return toncell.Address{Hash: sha256.Sum256([]byte(name))} }

func now() time.Time { return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) }

// ledger is a chain of these accounts.
type ledger struct {
	jobs     map[toncell.Address]*job.State
	balances map[toncell.Address]uint64
	err      error
}

func (l ledger) Job(_ context.Context, a toncell.Address) (*job.State, error) {
	if l.err != nil {
		return nil, l.err
	}
	st, ok := l.jobs[a]
	if !ok {
		return nil, fault.New(fault.ExitRefused, "contract.not_active", "", "reading %s", a)
	}
	return st, nil
}

func (l ledger) Balance(_ context.Context, a toncell.Address) (uint64, error) {
	return l.balances[a], nil
}

func state(status job.Status, deposited, paid uint64) *job.State {
	gw := addr("gateway")
	return &job.State{Status: status, Deposited: deposited, Paid: paid, CloseAt: now().Add(time.Hour),
		Verdicts: map[job.Hash]job.Recorded{{1}: {At: now().Add(-10 * time.Hour)}},
		Terms:    job.Terms{ClientKey: job.Hash(key("client").Public().(ed25519.PublicKey)), Payout: addr("payout"), Gateway: &gw, FeeBps: 1000}}
}

func keep(t *testing.T, b vouchers.Book, name string, seq uint64, amount coin.Nano, by string) bool {
	t.Helper()
	v, err := receipt.Voucher{GlobalID: -3, Job: addr(name), Seq: seq, Amount: amount, ReceiptCount: seq}.Sign(key(by))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := b.Keep(v)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

func codes(r *Report) []string {
	var out []string
	for _, w := range r.Warnings {
		out = append(out, w.Code)
		if w.Remedy == "" {
			out = append(out, "without a remedy")
		}
	}
	return out
}

func TestSumsAreNetOfTheGatewaysShare(t *testing.T) {
	const ton = uint64(1e9)
	b := vouchers.Book{Dir: t.TempDir()}
	l := ledger{jobs: map[toncell.Address]*job.State{
		addr("open"):   state(job.Released, 10*ton, 2*ton),
		addr("short"):  state(job.Released, 3*ton, 0),
		addr("closed"): state(job.Closed, 5*ton, 4*ton),
		addr("ending"): state(job.Closing, 5*ton, 0),
		addr("other"):  state(job.Released, 5*ton, 0),
	}}
	other := *l.jobs[addr("other")]
	other.Terms.Payout = addr("somebody else")
	l.jobs[addr("other")] = &other
	keep(t, b, "open", 7, coin.Nano(6*ton), "client")
	keep(t, b, "short", 1, coin.Nano(5*ton), "client") // more than the job holds
	keep(t, b, "closed", 2, coin.Nano(5*ton), "client")
	keep(t, b, "ending", 3, coin.Nano(ton), "client")
	keep(t, b, "other", 3, coin.Nano(ton), "client")
	payout := addr("payout")
	r, err := Make(t.Context(), Options{Book: b, Chain: l, Now: now(), Payout: &payout, Threshold: coin.Nano(3 * ton)})
	if err != nil {
		t.Fatal(err)
	}
	// 90 % of 6 + 3 + 4 + 1 earned, of 2 + 4 paid out; what the closed job
	// did not pay is lost.
	if r.Earned != coin.Nano(126*ton/10) || r.PaidOut != coin.Nano(54*ton/10) || r.Outstanding != coin.Nano(72*ton/10) || r.Fees != coin.Nano(14*ton/10) || r.PerHour != coin.Nano(126*ton/100) {
		t.Errorf("report %+v", r)
	}
	if len(r.Jobs) != 4 || r.Receipts != 13 {
		t.Errorf("%d jobs, %d receipts", len(r.Jobs), r.Receipts)
	}
	if got, want := codes(r), []string{"earnings.closing", "earnings.deposit", "earnings.threshold"}; !slices.Equal(got, want) {
		t.Errorf("warnings %v, want %v", got, want)
	}
}

func TestGasAndStakeAreWatched(t *testing.T) {
	b := vouchers.Book{Dir: t.TempDir()}
	stake, wallet := addr("stake"), addr("wallet")
	st := state(job.Released, 1e9, 0)
	st.Terms.Stake, st.Terms.MinStake = &stake, 5e9
	l := ledger{jobs: map[toncell.Address]*job.State{addr("a"): st}, balances: map[toncell.Address]uint64{stake: 4e9, wallet: 1e8}}
	keep(t, b, "a", 1, 1, "client")
	o := Options{Book: b, Chain: l, Now: now(), Threshold: 1e9, Wallet: &wallet, Gas: 5e8}
	r, err := Make(t.Context(), o)
	if err != nil || !slices.Equal(codes(r), []string{"earnings.gas", "earnings.stake"}) || *r.Wallet != 1e8 {
		t.Errorf("%+v, %v", r, err)
	}
	l.balances[stake], l.balances[wallet] = 6e9, 1e9
	if r, err = Make(t.Context(), o); err != nil || len(r.Warnings) != 0 {
		t.Errorf("with enough of both: %+v, %v", r, err)
	}
}

// What a hostile guest leaves beside the vouchers neither counts nor hides
// them.
func TestOnlyWhatTheClientSignedCounts(t *testing.T) {
	root := t.TempDir()
	b := vouchers.Book{Dir: root}
	keep(t, b, "a", 3, 30, "client")
	keep(t, vouchers.Book{Dir: filepath.Join(root, "vm-2")}, "a", 9, 90, "thief")
	keep(t, vouchers.Book{Dir: filepath.Join(root, "vm-3")}, "a", 4, 40, "client")
	keep(t, b, "unknown", 1, 1, "client")
	if err := os.WriteFile(filepath.Join(root, "vm-2", "x.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := ledger{jobs: map[toncell.Address]*job.State{addr("a"): state(job.Released, 1e9, 0)}}
	r, err := Make(t.Context(), Options{Book: b, Chain: l, Now: now(), Threshold: 1e9})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Jobs) != 1 || r.Earned != 36 || r.Outstanding != 36 {
		t.Errorf("report %+v", r)
	}
	if got, want := codes(r), []string{"earnings.damaged", "earnings.no_job", "voucher.signature"}; !slices.Equal(got, want) {
		t.Errorf("warnings %v, want %v", got, want)
	}
	l.err = fault.New(fault.ExitNetwork, "ton.network.unreachable", "", "x")
	if _, err := Make(t.Context(), Options{Book: b, Chain: l, Now: now()}); !fault.Has(err, "ton.network.unreachable") {
		t.Errorf("without a chain: %v", err)
	}
}
