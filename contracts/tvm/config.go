package tvm

import (
	"fmt"
	"path/filepath"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// DefaultConfig reads the blockchain config that @ton/sandbox ships: mainnet's
// parameters without the validator sets and what emulation does not read. The
// result is the root of a config dictionary (hashmap 32 ^Cell). An empty dir
// means DefaultDir.
func DefaultConfig(dir string) (*cell.Cell, error) {
	if dir == "" {
		dir = DefaultDir()
	}
	b, err := readPinned(filepath.Join(dir, configFile), ConfigSHA256)
	if err != nil {
		return nil, err
	}
	c, err := cell.FromBOC(b)
	if err != nil {
		return nil, fmt.Errorf("decoding the blockchain config: %w", err)
	}
	return c, nil
}
