// Package parity repeats a devnet's history in @ton/sandbox under Node, which
// runs the same emulator without any of the Go code around it, and compares
// every transaction and every account byte for byte. In: a trace of package
// devnet; out: what was compared, or the first difference. It needs Node and
// the locked npm packages in contracts/node_modules; `make deps` installs them.
package parity

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"

	"cocoon/contracts/devnet"
	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
)

// Refusal is an external message that its account must not accept.
type Refusal struct {
	ID       string `json:"id"`      // account, hex
	Account  []byte `json:"account"` // ShardAccount
	Message  []byte `json:"message"`
	Now      uint32 `json:"now"`
	LT       uint64 `json:"lt,string"`
	Seed     string `json:"seed"`
	ExitCode int    `json:"exit_code"`
}

// Report says what agreed.
type Report struct {
	Transactions int `json:"transactions"`
	Accounts     int `json:"accounts"`
	Refusals     int `json:"refusals"`
	// Of the transactions:
	Deploys  int    `json:"deploys"`
	Bounced  int    `json:"bounced"`  // executed a message that came back
	Failed   int    `json:"failed"`   // their code ended with an exit code
	Skipped  int    `json:"skipped"`  // no code to run
	Emulator string `json:"emulator"` // commit of the TON node that Node's emulator says it is
}

// Check repeats the trace. A difference is devnet.parity.differs.
func Check(ctx context.Context, t *devnet.Trace, refusals ...Refusal) (*Report, error) {
	root, err := toolstree.RepoRoot()
	if err != nil {
		return nil, err
	}
	in, err := json.Marshal(struct {
		*devnet.Trace
		Refusals []Refusal `json:"refusals"`
	}{t, refusals})
	if err != nil {
		return nil, fmt.Errorf("writing a trace: %w", err)
	}
	cmd := exec.CommandContext(ctx, "node", filepath.Join(root, "contracts", "scripts", "replay.mjs"))
	cmd.Stdin = bytes.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fault.New(fault.ExitRefused, "devnet.parity.differs", "compare the two emulators: contracts/tvm and @ton/sandbox",
			"repeating a devnet's history in @ton/sandbox: %w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return nil, fmt.Errorf("reading the report of the replay: %w", err)
	}
	return &r, nil
}
