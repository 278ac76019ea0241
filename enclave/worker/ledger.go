package worker

import (
	"context"
	"fmt"
	"os"
	"time"

	"cocoon/contracts/chain"
	contracts "cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/enclave/ledger"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// openLedger opens the ledger of the config's registry, if it names one, and
// makes sure that the registry is there. The network config comes from the
// host: a host that names a chain of its own making only cheats itself of its
// pay, since clients read the chain that they trust.
func (w *Worker) openLedger(ctx context.Context) error {
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
	w.chain, err = chain.Open(w.ton, chain.Options{Logger: w.log})
	if err != nil {
		return configFault("ton-global.json", err)
	}
	on := contracts.New(w.chain, w.log)
	err = patiently(ctx, func(ctx context.Context) error {
		_, st, err := on.Registry(ctx, registry)
		if err == nil && st.GlobalID != w.config.NetworkID {
			err = fault.Mismatch(fault.ExitRefused, ledger.CodeNetwork, "the TON network", fmt.Sprint(w.config.NetworkID), fmt.Sprint(st.GlobalID),
				"give the machine the lite-servers of its config's network")
		}
		return err
	})
	if err != nil {
		return err
	}
	dir := w.booksDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the books' directory: %w", err)
	}
	w.log.Info("books", "dir", dir)
	w.ledger = ledger.New(ledger.Options{
		Chain: on, GlobalID: w.config.NetworkID, Registry: registry, ModelRoot: receipt.Hash(w.config.Model.Verity.Root),
		Payout: payout, Key: w.keys.Receipt, Price: w.operator.Price, Dir: dir, Clock: time.Now,
		OnVoucher: w.offerVoucher,
		Manifest: func() (receipt.Hash, error) {
			cur, err := w.keeper.Current()
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
