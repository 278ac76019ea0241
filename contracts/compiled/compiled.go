// Package compiled holds the contracts' code cells as they were compiled from
// contracts/tolk by the pinned compiler. `npm test` in contracts/ recompiles
// and compares; Load checks that the cell has the stated hash.
package compiled

import (
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/jcs"
	"cocoon/internal/toncell"
)

//go:embed registry.json
var registryJSON []byte

//go:embed job.json
var jobJSON []byte

//go:embed worker.json
var workerJSON []byte

// Artefact is the compiler's output for one contract.
type Artefact struct {
	Contract    string            `json:"contract"`
	Compiler    string            `json:"compiler"`
	CodeHashHex string            `json:"codeHashHex"`
	CodeBOC64   string            `json:"codeBoc64"`
	Sources     map[string]string `json:"sources"` // file → SHA-256, hex

	Code *cell.Cell `json:"-"`
}

// Registry returns the registry's code.
func Registry() (*Artefact, error) { return load(registryJSON) }

// Job returns the job's code.
func Job() (*Artefact, error) { return load(jobJSON) }

// Worker returns the worker contract's code.
func Worker() (*Artefact, error) { return load(workerJSON) }

func load(doc []byte) (*Artefact, error) {
	var a Artefact
	if err := jcs.Decode(doc, 64<<10, &a); err != nil {
		return nil, fmt.Errorf("reading compiled code: %w", err)
	}
	boc, err := base64.StdEncoding.DecodeString(a.CodeBOC64)
	if err != nil {
		return nil, fmt.Errorf("reading compiled code of %s: %w", a.Contract, err)
	}
	a.Code, err = toncell.ParseBOC(boc, toncell.Limits{Bytes: 32 << 10, Cells: 512, Depth: 64})
	if err != nil {
		return nil, fmt.Errorf("reading compiled code of %s: %w", a.Contract, err)
	}
	if got := hex.EncodeToString(a.Code.Hash()); got != a.CodeHashHex {
		return nil, fmt.Errorf("reading compiled code of %s: hash is %s, stated %s", a.Contract, got, a.CodeHashHex)
	}
	return &a, nil
}
