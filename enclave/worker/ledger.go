package worker

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/xssnick/tonutils-go/ton"

	"cocoon/contracts/chain"
	contracts "cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/enclave/anchor"
	"cocoon/enclave/ledger"
	"cocoon/enclave/status"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
	"cocoon/verifier/evidence"
)

// openChain opens the chain of the config's registry, if it names one, and
// makes sure that the registry is there. The network config comes from the
// host: without an init block in the measured config a host that names a chain
// of its own making only cheats itself of its pay, since clients read the chain
// that they trust, and nothing is handed over (package handover). A data disk
// that is tied to a chain goes on along that one.
func (w *Worker) openChain(ctx context.Context) error {
	if w.config.Registry == "" {
		return nil
	}
	registry, err := toncell.ParseAddress(w.config.Registry)
	if err != nil {
		return fault.New(fault.ExitParse, "config.parse", "write the registry's address into the config", "%w", err)
	}
	payout, err := toncell.ParseAddress(w.operator.Payout)
	if err != nil {
		return fault.New(fault.ExitParse, "config.parse", "write the payout address into operator.json", "%w", err)
	}
	w.registry, w.payout = registry, payout
	o := chain.Options{Logger: w.log, Start: initBlock(w.config)}
	if w.dataDir != "" {
		rec, err := anchor.Read(w.dataDir)
		if err != nil {
			return err
		}
		if rec != nil {
			o.Start = rec.KeyBlock.ID()
		}
	}
	w.chain, err = chain.Open(w.ton, o)
	if err != nil {
		return configFault("ton-global.json", err)
	}
	w.contracts = contracts.New(w.chain, w.log)
	return patiently(ctx, func(ctx context.Context) error {
		_, st, err := w.contracts.Registry(ctx, registry)
		if err == nil && st.GlobalID != w.config.NetworkID {
			err = fault.Mismatch(fault.ExitRefused, ledger.CodeNetwork, "the TON network", fmt.Sprint(w.config.NetworkID), fmt.Sprint(st.GlobalID),
				"give the machine the lite-servers of its config's network")
		}
		if err == nil {
			err = ledger.CheckClock(time.Now(), st)
		}
		return err
	})
}

// initBlock returns where the config has proofs start; nil: where the host's
// network config says.
func initBlock(c *evidence.Config) *ton.BlockIDExt {
	if c.InitBlock == nil {
		return nil
	}
	b := anchor.Block{Seqno: c.InitBlock.Seqno, RootHash: hexbytes.Hash(c.InitBlock.RootHash), FileHash: hexbytes.Hash(c.InitBlock.FileHash)}
	return b.ID()
}

// anchorChain is what package anchor reads.
type anchorChain struct {
	*contracts.Ledger
	*chain.Client
}

// holdData makes sure that the data disk is not an older state of itself,
// before anything on it is used.
func (w *Worker) holdData(ctx, background context.Context) error {
	if w.dataDir == "" {
		return nil
	}
	o := anchor.Options{
		Dir: w.dataDir, Blank: w.dataBlank, Payout: w.payout, Registry: w.registry, GlobalID: w.config.NetworkID,
		Await: func(why error) { w.rep.State(status.Booting, why) },
	}
	if w.operator.Worker != "" {
		if w.config.Registry == "" {
			return fault.New(fault.ExitParse, "config.parse", "name the registry in the config, or no worker contract in operator.json",
				"reading operator.json: a worker contract needs the config's registry")
		}
		addr, err := toncell.ParseAddress(w.operator.Worker)
		if err != nil {
			return fault.New(fault.ExitParse, "config.parse", "write the worker contract's address into operator.json", "%w", err)
		}
		o.Worker, o.Chain = &addr, anchorChain{w.contracts, w.chain}
	}
	var held *anchor.Anchor
	err := patiently(ctx, func(ctx context.Context) (err error) {
		held, err = anchor.Hold(ctx, o)
		return err
	})
	if err != nil || held == nil {
		return err
	}
	w.log.Info("data disk held", "worker", w.operator.Worker)
	w.rep.State(status.Booting, nil) // what Await said is done
	w.goBackground(func() {
		if err := held.Watch(background); err != nil {
			w.lost <- err
		}
	})
	return nil
}

// openLedger opens the books of the jobs under the config's registry.
func (w *Worker) openLedger(context.Context) error {
	if w.config.Registry == "" {
		return nil
	}
	dir := w.booksDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the books' directory: %w", err)
	}
	w.log.Info("books", "dir", dir)
	var models []ledger.Model
	for _, m := range w.config.ServedModels() {
		models = append(models, ledger.Model{Name: m.Name, Root: receipt.Hash(m.Verity.Root), Price: w.operator.PriceOf(m.Name)})
	}
	w.ledger = ledger.New(ledger.Options{
		Chain: w.contracts, GlobalID: w.config.NetworkID, Registry: w.registry, Models: models,
		Payout: w.payout, Key: w.keys.Receipt, Dir: dir, Clock: time.Now,
		OnVoucher: w.offerVoucher,
		Manifest: func(model string) (receipt.Hash, error) {
			k, err := w.keepers.Of(model)
			if err != nil {
				return receipt.Hash{}, err
			}
			cur, err := k.Current()
			if err != nil {
				return receipt.Hash{}, err
			}
			return receipt.Hash(cur.Manifest), nil
		},
	})
	return nil
}

// offerVoucher gives a voucher to the host, which redeems it. The host is the
// operator's: it loses its own pay by losing vouchers.
func (w *Worker) offerVoucher(v *receipt.SignedVoucher) {
	doc, err := v.Marshal()
	if err != nil {
		w.log.Error("voucher not given to the host", "err", err)
		return
	}
	w.rep.Voucher(v.Voucher.Job.String(), doc)
}
