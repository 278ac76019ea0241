package tvm_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
)

const now = 1_800_000_000

func open(t testing.TB) (*tvm.Engine, *cell.Cell) {
	t.Helper()
	e, err := tvm.Open(context.Background(), tvm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	cfg, err := tvm.DefaultConfig("")
	if err != nil {
		t.Fatal(err)
	}
	return e, cfg
}

func walletInit(t testing.TB) (*tlb.StateInit, *address.Address) {
	t.Helper()
	pub := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	st, err := wallet.GetStateInit(pub, wallet.V4R2, wallet.DefaultSubwallet)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := wallet.AddressFromPubKey(pub, wallet.V4R2, wallet.DefaultSubwallet)
	if err != nil {
		t.Fatal(err)
	}
	return st, addr
}

func TestGetMethodReturnsTheStack(t *testing.T) {
	e, cfg := open(t)
	st, addr := walletInit(t)
	res, err := e.RunGetMethod(context.Background(), tvm.GetRequest{
		Code: st.Code, Data: st.Data, Config: cfg, Address: addr, Now: now, Method: "get_public_key",
	})
	if err != nil {
		t.Fatal(err)
	}
	pub := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	if res.ExitCode != 0 || len(res.Stack) != 1 || res.Stack[0].(*big.Int).Cmp(new(big.Int).SetBytes(pub)) != 0 {
		t.Fatalf("exit %d, stack %v", res.ExitCode, res.Stack)
	}
	if res.GasUsed == 0 {
		t.Error("no gas was used")
	}
}

func TestGetMethodFailuresAreExitCodes(t *testing.T) {
	e, cfg := open(t)
	st, addr := walletInit(t)
	empty := cell.BeginCell().EndCell()
	deep := empty
	for range 900 {
		deep = cell.BeginCell().MustStoreRef(deep).EndCell()
	}
	for name, tc := range map[string]struct {
		code, data *cell.Cell
		method     string
		gas        uint64
		exit       int
	}{
		"an unknown method":                   {st.Code, st.Data, "no_such_method", 0, 11},
		"data too short, a thrown underflow":  {st.Code, empty, "seqno", 0, 9},
		"no gas for the first instruction":    {st.Code, st.Data, "seqno", 1, -14},
		"code that is not an instruction":     {cell.BeginCell().MustStoreUInt(0xfeff, 16).EndCell(), st.Data, "seqno", 0, 6},
		"deep data is read without recursion": {st.Code, deep, "seqno", 0, 9},
	} {
		t.Run(name, func(t *testing.T) {
			// Repeated, because exceptions must leave the instance usable.
			for range 5 {
				res, err := e.RunGetMethod(context.Background(), tvm.GetRequest{
					Code: tc.code, Data: tc.data, Config: cfg, Address: addr, Now: now, Method: tc.method, Gas: tc.gas,
				})
				if err != nil {
					t.Fatal(err)
				}
				if res.ExitCode != tc.exit {
					t.Fatalf("exit code %d, want %d", res.ExitCode, tc.exit)
				}
			}
		})
	}
	if _, err := e.RunGetMethod(context.Background(), tvm.GetRequest{
		Code: st.Code, Data: st.Data, Config: cfg, Address: addr, Method: "seqno", Gas: tvm.MaxGetGas + 1,
	}); err == nil {
		t.Error("a gas limit over the maximum was accepted")
	}
}

func transfer(t testing.TB, to *address.Address, amount string, bounce bool) *cell.Cell {
	t.Helper()
	msg, err := tlb.ToCell(&tlb.InternalMessage{
		IHRDisabled: true, Bounce: bounce,
		SrcAddr: address.NewAddress(0, 0, make([]byte, 32)), DstAddr: to,
		Amount: tlb.MustFromTON(amount), CreatedLT: 1, CreatedAt: now,
		Body: cell.BeginCell().EndCell(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestEmulateCreditsBouncesAndRefuses(t *testing.T) {
	e, cfg := open(t)
	st, addr := walletInit(t)
	run := func(account, msg *cell.Cell, lt uint64) (*tvm.EmulateResult, *tlb.Transaction, error) {
		res, err := e.Emulate(context.Background(), tvm.EmulateRequest{
			Account: account, Message: msg, Config: cfg, Now: now, LT: lt,
		})
		if err != nil {
			return nil, nil, err
		}
		var tx tlb.Transaction
		if err := tlb.LoadFromCell(&tx, res.Transaction.BeginParse()); err != nil {
			t.Fatal(err)
		}
		return res, &tx, nil
	}
	credited, tx, err := run(tvm.AccountNone(), transfer(t, addr, "5", false), 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	if tx.EndStatus != tlb.AccountStatusUninit || tx.OutMsgCount != 0 {
		t.Fatalf("after a plain transfer: status %s, %d messages", tx.EndStatus, tx.OutMsgCount)
	}
	if _, tx, err = run(tvm.AccountNone(), transfer(t, addr, "5", true), 1_000_000); err != nil {
		t.Fatal(err)
	} else if tx.OutMsgCount != 1 {
		t.Fatalf("a bounceable transfer to nobody: %d messages, want the bounce", tx.OutMsgCount)
	}
	ext := func(body *cell.Cell) *cell.Cell {
		c, err := tlb.ToCell(&tlb.ExternalMessage{DstAddr: addr, StateInit: st, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	payload := cell.BeginCell().MustStoreUInt(wallet.DefaultSubwallet, 32).MustStoreUInt(now+60, 32).
		MustStoreUInt(0, 32).MustStoreUInt(0, 8).EndCell()
	sign := func(key ed25519.PrivateKey) *cell.Cell {
		return cell.BeginCell().MustStoreSlice(payload.Sign(key), 512).MustStoreBuilder(payload.ToBuilder()).EndCell()
	}
	good := ed25519.NewKeyFromSeed(make([]byte, 32))
	if _, tx, err = run(credited.Account, ext(sign(good)), 2_000_000); err != nil {
		t.Fatal(err)
	} else if tx.EndStatus != tlb.AccountStatusActive {
		t.Fatalf("after deployment: %s", tx.EndStatus)
	}
	bad := ed25519.NewKeyFromSeed(append(make([]byte, 31), 1))
	_, _, err = run(credited.Account, ext(sign(bad)), 2_000_000)
	var refused *tvm.NotAcceptedError
	if !errors.As(err, &refused) || refused.ExitCode != 35 || !fault.Has(err, "ton.tvm.not_accepted") {
		t.Fatalf("a wrong signature gave %v", err)
	}
}

func TestSameInputsGiveTheSameBytes(t *testing.T) {
	e, cfg := open(t)
	_, addr := walletInit(t)
	var first []byte
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			res, err := e.Emulate(context.Background(), tvm.EmulateRequest{
				Account: tvm.AccountNone(), Message: transfer(t, addr, "1", false), Config: cfg, Now: now, LT: 7_000_000,
			})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = res.Transaction.Hash()
			}
			if string(first) != string(res.Transaction.Hash()) {
				t.Error("concurrent runs of one input differ")
			}
		}()
	}
	wg.Wait()
}

func TestBadInputIsRefusedAndTheEngineGoesOn(t *testing.T) {
	e, cfg := open(t)
	_, addr := walletInit(t)
	junk := cell.BeginCell().MustStoreUInt(0xdeadbeef, 32).EndCell()
	for name, r := range map[string]tvm.EmulateRequest{
		"a message that is none": {Account: tvm.AccountNone(), Message: junk, Config: cfg, Now: now, LT: 1_000_000},
		"an account that is none": {Account: junk, Message: transfer(t, addr, "1", false), Config: cfg,
			Now: now, LT: 1_000_000},
		"a config that is none": {Account: tvm.AccountNone(), Message: transfer(t, addr, "1", false), Config: junk,
			Now: now, LT: 1_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := e.Emulate(context.Background(), r); err == nil {
				t.Fatal("accepted")
			} else if len(fault.All(err)) == 0 {
				t.Fatalf("no code in %v", err)
			}
			if _, err := e.Emulate(context.Background(), tvm.EmulateRequest{
				Account: tvm.AccountNone(), Message: transfer(t, addr, "1", false), Config: cfg, Now: now, LT: 7_000_000,
			}); err != nil {
				t.Fatalf("the next emulation fails: %v", err)
			}
		})
	}
}

func TestWasmIsPinned(t *testing.T) {
	dir := t.TempDir()
	if _, err := tvm.Open(context.Background(), tvm.Options{Dir: dir}); !fault.Has(err, "ton.tvm.missing") {
		t.Errorf("without the file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "emulator.wasm"), []byte("\x00asm\x01\x00\x00\x00"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tvm.Open(context.Background(), tvm.Options{Dir: dir}); !fault.Has(err, "ton.tvm.hash_mismatch") {
		t.Errorf("with another file: %v", err)
	}
	if _, err := tvm.DefaultConfig(dir); !fault.Has(err, "ton.tvm.missing") {
		t.Errorf("without the config: %v", err)
	}
}

func BenchmarkGetMethod(b *testing.B) {
	e, cfg := open(b)
	st, addr := walletInit(b)
	for b.Loop() {
		if _, err := e.RunGetMethod(context.Background(), tvm.GetRequest{
			Code: st.Code, Data: st.Data, Config: cfg, Address: addr, Now: now, Method: "seqno",
		}); err != nil {
			b.Fatal(err)
		}
	}
}
