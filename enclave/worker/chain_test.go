package worker

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// The host names a chain of its own making; no server is needed to see which
// block proofs start at.
func TestTheChainIsTheMeasuredConfigs(t *testing.T) {
	mine := evidence.MasterBlock{Seqno: 9, RootHash: digest.Sum256([]byte("root")), FileHash: digest.Sum256([]byte("file"))}
	host := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("h", 32)))
	global := fmt.Sprintf(`{"liteservers":[{"ip":2130706433,"port":1,"id":{"@type":"pub.ed25519","key":%q}}],
"validator":{"zero_state":{"workchain":-1},"init_block":{"workchain":-1,"shard":-9223372036854775808,"seqno":7,"root_hash":%q,"file_hash":%q}}}`, host, host, host)
	const address = "0:1111111111111111111111111111111111111111111111111111111111111111"
	for _, tc := range []struct {
		block *evidence.MasterBlock
		seqno uint32
		root  string
	}{
		{nil, 7, strings.Repeat("h", 32)},
		{&mine, 9, string(mine.RootHash[:])},
	} {
		w := &Worker{config: &evidence.Config{Registry: address, InitBlock: tc.block}, operator: &evidence.Operator{Payout: address}, ton: []byte(global)}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.openChain(ctx); err == nil {
			t.Fatal("a registry was read from nowhere")
		}
		defer w.chain.Close()
		if got := w.chain.KeyBlock(); got.SeqNo != tc.seqno || string(got.RootHash) != tc.root {
			t.Errorf("proofs start at block %d %x, want %d %x", got.SeqNo, got.RootHash, tc.seqno, tc.root)
		}
	}
}
