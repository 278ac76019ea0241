// Package proof checks what a lite-server says about accounts. In: serialised
// Merkle proofs (TL-B BlockProof material, bags of cells) and a block that the
// caller trusts; out: the account's state, its proven absence, or a refusal.
//
// It does not use the proof code of the client library: that code reads
// special cells like ordinary ones and takes a pruned path for an absent
// account. Here every cell of a bag is checked for well-formedness first
// (boc.go), every cell that is read must be ordinary, and absence is a fact
// only when the path shows it.
//
// Definitions: crypto/block/block.tlb of the TON node, and "The Open Network",
// section 3.1 (bags of cells), and tonlib's check-proof.
package proof

import "errors"

var (
	errSpecial  = errors.New("a special cell where data is expected")
	errTrailing = errors.New("trailing data")
)

func isUnproven(err error) bool { return errors.Is(err, ErrUnproven) }
