package ledger_test

import (
	"testing"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/compiled"
	"cocoon/contracts/ledger"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// Anyone can deploy a job's code with data that is none, and name its address,
// or one where no chain is, in a voucher. Whoever reads many jobs goes on with
// the others after a refusal alone.
func TestWhatIsNoJobIsRefused(t *testing.T) {
	c, err := compiled.Job()
	if err != nil {
		t.Fatal(err)
	}
	st := &chain.State{Account: proof.Account{Status: proof.Active, Code: c.Code, Data: cell.BeginCell().MustStoreUInt(0xdead, 16).EndCell()}}
	if _, err := ledger.JobOf(st, toncell.Address{}); !fault.Has(err, "job.address") || fault.ExitCode(err) != fault.ExitRefused {
		t.Errorf("forged data: %v", err)
	}
	// It asks no chain: there is none.
	if _, _, err := ledger.New(nil, nil).Job(t.Context(), toncell.Address{Workchain: 7}); !fault.Has(err, "job.address") || fault.ExitCode(err) != fault.ExitRefused {
		t.Errorf("workchain 7: %v", err)
	}
}
