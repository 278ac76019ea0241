package snp

import (
	"encoding/hex"
	"errors"
	"fmt"

	"cocoon/internal/fault"
	"cocoon/verifier/snp/idblock"
)

// idBlock verifies the ID block: the signatures in its authentication, that
// the report has the digests of those keys, and that the guest is the one that
// the block names (AMD 56860, SNP_LAUNCH_FINISH). Digests in a report say which
// keys, a block what they signed.
func (v *run) idBlock() {
	o, p := v.o, v.p
	if len(o.IDBlock) == 0 && len(o.IDAuth) == 0 {
		return
	}
	b, err := idblock.Verify(o.IDBlock, o.IDAuth)
	if err != nil {
		code, exit := "snp.id_block.signature", fault.ExitRefused
		if errors.Is(err, idblock.ErrMalformed) {
			code, exit = "snp.id_block.parse", fault.ExitParse
		}
		v.note(fault.New(exit, code, "give the ID block and the ID authentication that the guest was launched with", "verifying ID block: %w", err).Expect("an ID block with sound signatures"))
		return
	}
	v.pass("snp.id_block.signature")
	good := true
	differ := func(id, what, expected, actual string) {
		good = false
		v.fail(id, expected, actual, what+" of the report is not that of the ID block", "give the ID block that this guest was launched with")
	}
	if b.IDKeyDigest != p.IDKeyDigest {
		differ("snp.id_block.id_key", "ID key digest", hex.EncodeToString(b.IDKeyDigest[:]), hex.EncodeToString(p.IDKeyDigest[:]))
	}
	if b.HasAuthor != p.AuthorKey || b.AuthorKeyDigest != p.AuthorKeyDigest {
		differ("snp.id_block.author_key", "author key digest", hex.EncodeToString(b.AuthorKeyDigest[:]), hex.EncodeToString(p.AuthorKeyDigest[:]))
	}
	if b.LaunchDigest != p.LaunchDigest {
		differ("snp.id_block.launch_digest", "launch digest", hex.EncodeToString(b.LaunchDigest[:]), hex.EncodeToString(p.LaunchDigest[:]))
	}
	if b.FamilyID != p.FamilyID || b.ImageID != p.ImageID {
		differ("snp.id_block.ids", "family or image ID", hex.EncodeToString(b.FamilyID[:])+" "+hex.EncodeToString(b.ImageID[:]),
			hex.EncodeToString(p.FamilyID[:])+" "+hex.EncodeToString(p.ImageID[:]))
	}
	if b.GuestSVN != p.GuestSVN {
		differ("snp.id_block.guest_svn", "guest SVN", fmt.Sprint(b.GuestSVN), fmt.Sprint(p.GuestSVN))
	}
	if b.Policy != p.Policy {
		differ("snp.id_block.policy", "guest policy", fmt.Sprintf("%#x", uint64(b.Policy)), fmt.Sprintf("%#x", uint64(p.Policy)))
	}
	if good {
		v.pass("snp.id_block.guest")
		v.res.IDBlock = b
	}
}
