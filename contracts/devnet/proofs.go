package devnet

import (
	"errors"
	"fmt"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Positions of references inside blocks and states (block.tlb).
const (
	blockInfoRef, blockUpdateRef, blockExtraRef = 0, 2, 3
	extraAccountsRef, extraCustomRef            = 2, 3
	stateAccountsRef, stateCustomRef            = 1, 3
)

var errStatePruned = errors.New("state already gone: too old")

func prove(root *cell.Cell, sk *cell.ProofSkeleton) (*cell.Cell, error) {
	p, err := root.CreateProof(sk)
	if err != nil {
		return nil, fmt.Errorf("building a proof: %w", err)
	}
	return p, nil
}

// headerProof proves a block's header and state update.
func headerProof(block *cell.Cell) (*cell.Cell, error) {
	sk := cell.CreateProofSkeleton()
	sk.ProofRef(blockInfoRef).SetRecursive()
	sk.ProofRef(blockUpdateRef).SetRecursive()
	return prove(block, sk)
}

// shardProof proves that a master block's state names a shard block.
func shardProof(h *height) ([]*cell.Cell, error) {
	if h.masterState == nil {
		return nil, errStatePruned
	}
	head, err := headerProof(h.masterBlock)
	if err != nil {
		return nil, err
	}
	sk := cell.CreateProofSkeleton()
	sk.ProofRef(stateCustomRef).ProofRef(0).SetRecursive() // McStateExtra, shard hashes
	state, err := prove(h.masterState, sk)
	return []*cell.Cell{head, state}, err
}

// accountProof proves an account, or that there is none, in a shard state.
func accountProof(h *height, addr []byte) ([]*cell.Cell, error) {
	if h.shardState == nil {
		return nil, errStatePruned
	}
	head, err := headerProof(h.shardBlock)
	if err != nil {
		return nil, err
	}
	sk := cell.CreateProofSkeleton()
	accounts := sk.ProofRef(stateAccountsRef)
	if h.accounts != nil {
		accountPath(h.accounts, addr, accounts.ProofRef(0))
	}
	state, err := prove(h.shardState, sk)
	return []*cell.Cell{head, state}, err
}

// accountPath keeps the nodes from the root of the tree to the leaf of addr,
// or to the node whose label shows that there is none.
func accountPath(t *augTree, addr []byte, sk *cell.ProofSkeleton) {
	for t.value == nil {
		for i := uint(0); i < t.label; i++ {
			if keyBit(addr, t.depth+i) != keyBit(t.key, t.depth+i) {
				return
			}
		}
		bit := keyBit(addr, t.depth+t.label)
		sk = sk.ProofRef(int(bit))
		if bit == 0 {
			t = t.left
		} else {
			t = t.right
		}
	}
}

// configProof proves the config in a master state.
func configProof(h *height) (head, state *cell.Cell, err error) {
	if h.masterState == nil {
		return nil, nil, errStatePruned
	}
	if head, err = headerProof(h.masterBlock); err != nil {
		return nil, nil, err
	}
	sk := cell.CreateProofSkeleton()
	extra := sk.ProofRef(stateCustomRef)
	// The library parses the shard hashes on the way to the config.
	extra.ProofRef(0).SetRecursive()
	extra.ProofRef(1).SetRecursive()
	state, err = prove(h.masterState, sk)
	return head, state, err
}

// keyBlockProof proves the config in a key block.
func keyBlockProof(block *cell.Cell) (*cell.Cell, error) {
	sk := cell.CreateProofSkeleton()
	sk.ProofRef(blockInfoRef).SetRecursive()
	custom := sk.ProofRef(blockExtraRef).ProofRef(extraCustomRef)
	custom.SetRecursive()
	return prove(block, sk)
}

// transactionsProof proves the transactions of a block.
func transactionsProof(block *cell.Cell) (*cell.Cell, error) {
	sk := cell.CreateProofSkeleton()
	sk.ProofRef(blockInfoRef).SetRecursive()
	sk.ProofRef(blockExtraRef).ProofRef(extraAccountsRef).SetRecursive()
	return prove(block, sk)
}

// shardsProof proves the shard hashes in a master block.
func shardsProof(block *cell.Cell) (*cell.Cell, error) {
	sk := cell.CreateProofSkeleton()
	sk.ProofRef(blockInfoRef).SetRecursive()
	sk.ProofRef(blockExtraRef).ProofRef(extraCustomRef).SetRecursive()
	return prove(block, sk)
}
