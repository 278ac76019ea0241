package tolk

import (
	"crypto/ed25519"
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/contracts/registry"
	"cocoon/contracts/worker"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

func sum(s string) [32]byte { return sha256.Sum256([]byte(s)) }

func key(name string) ed25519.PrivateKey {
	seed := sum("schema " + name)
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(name string) ed25519.PublicKey { return key(name).Public().(ed25519.PublicKey) }

func addr(name string) toncell.Address { return toncell.Address{Hash: sum(name)} }

var now = time.Unix(1_800_000_000, 0).UTC()

// must is for cells of fixed content.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func verdictOf(receiptKey string) *verdictcell.Verdict {
	c := verdictcell.Common{
		GlobalID: -239, Registry: addr("registry"), TrustClass: verdictcell.TDX, ReceiptKey: sum(receiptKey), Payout: addr("payout"),
		Manifest: sum("manifest"), ModelRoot: sum("model"), PolicyHash: sum("policy"), EvidenceSHA256: sum("evidence"),
	}
	var sigs []verdictcell.Signature
	for _, n := range []string{"a", "b"} {
		sigs = append(sigs, must(verdictcell.Sign(key(n), must(c.Hash()), 1000, 2000)))
	}
	return must(verdictcell.New(c, sigs...))
}

func registryState() *registry.State {
	s := registry.New(registry.NewOwners(2, public("o1"), public("o2")), true)
	s.AddVerifier(public("a"), now)
	s.Manifests[sum("manifest")] = registry.Manifest{State: registry.Grace, GraceUntil: now}
	for i, e := range newEntries() {
		s.Waiting[ids()[i]] = registry.Waiting{From: now, Order: 2, Signers: 2, Entry: e, Account: s.NextAccount}
	}
	s.NextAccount++
	s.Models[sum("model")] = registry.Model{NameHash: sum("name"), Active: true}
	s.Policies[sum("policy")] = now
	s.Gateways[sum("gw")] = registry.Gateway{Payout: addr("gw"), Endpoint: "gw.example.org:443"}
	s.Checkpoints[sum("log")] = registry.Checkpoint{Size: 9, Root: sum("root"), At: now}
	s.Bonds[verdictcell.KeyID(public("a"))] = registry.Bond{Owner: addr("bond"), Amount: 5, Unbonding: 6, UnlockAt: now}
	s.VerifiersWait, s.VerifiersWaitUntil = 1, now
	s.Models[sum("retired")] = registry.Model{NameHash: sum("name")}
	s.Slashed, s.MinBond = 7, 8
	s.Pending[4] = registry.Pending{ReadyAt: now, Signers: 2, Order: must(orderOf(s).Cell())}
	return s
}

// newEntries are of each kind that can be scheduled, ids what they are known by.
func newEntries() []registry.Entry {
	return []registry.Entry{
		registry.ManifestEntry{SHA256: sum("m"), State: registry.Active}, registry.ModelEntry{Root: sum("r"), NameHash: sum("n"), Active: true},
		registry.PolicyEntry{SHA256: sum("p"), Accepted: true}, registry.VerifierEntry{Public: public("v"), From: now, Until: registry.Forever, Listed: true},
		registry.GatewayEntry{ID: sum("g"), Gateway: &registry.Gateway{Payout: addr("gw"), Endpoint: "g:1"}},
	}
}

func ids() []registry.ID {
	return []registry.ID{
		{Kind: registry.KindManifest, Hash: sum("m")}, {Kind: registry.KindModel, Hash: sum("r")}, {Kind: registry.KindPolicy, Hash: sum("p")},
		{Kind: registry.KindVerifier, Hash: verdictcell.KeyID(public("v"))}, {Kind: registry.KindGateway, Hash: sum("g")},
	}
}

// orderOf has each kind of entry.
func orderOf(s *registry.State) *registry.Order {
	entries := append([]registry.Entry{registry.OwnersEntry{Owners: s.Owners}}, newEntries()...)
	return &registry.Order{GlobalID: -239, Registry: addr("registry"), Number: 3, ValidUntil: now, Later: true, Entries: append(entries,
		registry.ThresholdEntry{K: 1}, registry.PausedEntry{Paused: true}, registry.GatewayEntry{ID: sum("g")},
		registry.CheckpointEntry{Origin: sum("log"), Size: 1, Root: sum("root")}, registry.ParametersEntry{Parameters: s.Parameters},
		registry.UpgradeEntry{Code: cell.BeginCell().EndCell()}, registry.WithdrawEntry{To: addr("to"), Amount: 9})}
}

func jobTerms() *job.Terms {
	gateway, stake := addr("gateway"), addr("stake")
	return &job.Terms{
		Client: addr("client"), ClientKey: job.Hash(public("client")), Payout: addr("payout"), Registry: addr("registry"), ModelRoot: sum("model"),
		PolicyHash: sum("policy"), PriceCap: 5, Gateway: &gateway, FeeBps: 500, Stake: &stake, MinStake: 6, CloseDelay: time.Hour, Salt: sum("salt"),
	}
}

// Whatever the Go bindings build is read whole by the schema, by the type that
// its receiver reads.
func TestBindingsWriteWhatTheSchemaSays(t *testing.T) {
	s := readTLB(t)
	state, v := registryState(), verdictOf("receipt")
	verdict := must(v.Cell())
	order := orderOf(state)
	sigs := []registry.OwnerSignature{must(state.Owners.Sign(key("o1"), order)), must(state.Owners.Sign(key("o2"), order))}
	slash, _, err := registry.Slash(0, []ed25519.PublicKey{public("a")}, v, verdictOf("another"))
	if err != nil {
		t.Fatal(err)
	}
	terms, bare := jobTerms(), jobTerms()
	bare.Gateway, bare.Stake, bare.MinStake, bare.FeeBps = nil, nil, 0, 0
	voucher := must(receipt.Voucher{GlobalID: -239, Job: addr("job"), Seq: 1, Amount: coin.TON, ReceiptCount: 2, ReceiptsRoot: sum("r"), Verdict: sum("v")}.Sign(key("client")))
	signed := must(receipt.Sign(key("receipt"), receipt.Receipt{Type: receipt.Type, Job: addr("job"), Seq: 1, Time: now}))
	wt := worker.Terms{Owner: addr("owner"), Payout: addr("payout"), Registry: addr("registry"), Machine: sum("machine"), LeaveDelay: 24 * time.Hour}
	jobInit, _, err1 := terms.StateInit()
	bareInit, _, err2 := bare.StateInit()
	workInit, _, err3 := wt.StateInit()
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			t.Fatal(err)
		}
	}
	type written struct {
		kind string
		cell *cell.Cell
	}
	cells := map[string]written{
		"common cell":             {"Common", must(v.Common.Cell())},
		"verdict":                 {"Verdict", verdict},
		"registry's data":         {"Registry", must(state.Data())},
		"a new registry's data":   {"Registry", must(registry.New(state.Owners, false).Data())},
		"order":                   {"Order", must(order.Cell())},
		"check of a verdict":      {"RegistryMessage", must(registry.CheckVerdict(1, addr("job"), 5, verdict))},
		"proposal":                {"RegistryMessage", must(registry.Propose(1, order, sigs))},
		"execution":               {"RegistryMessage", must(registry.Execute(1, 2))},
		"veto":                    {"RegistryMessage", must(registry.Veto(1, 2, sigs))},
		"veto of what waits":      {"RegistryMessage", must(registry.VetoScheduled(1, ids()[0], sigs))},
		"fund":                    {"RegistryMessage", must(registry.Fund(1))},
		"claim":                   {"RegistryMessage", must(registry.Claim(1, key("a"), -239, addr("registry"), addr("to"), now))},
		"bond":                    {"RegistryMessage", must(registry.PostBond(1, key("a"), -239, addr("registry"), addr("to"), 5))},
		"unbonding":               {"RegistryMessage", must(registry.Unbond(1, sum("k")))},
		"withdrawal of a bond":    {"RegistryMessage", must(registry.WithdrawBond(1, sum("k")))},
		"accusation of a key":     {"RegistryMessage", slash},
		"job's data":              {"Job", jobInit.Data},
		"a bare job's data":       {"Job", bareInit.Data},
		"deposit":                 {"JobMessage", must(job.Deposit(1, 2))},
		"redemption":              {"JobMessage", must(job.Redeem(1, voucher))},
		"close":                   {"JobMessage", must(job.Close(1))},
		"finish":                  {"JobMessage", must(job.Finish(1))},
		"accusation of a worker":  {"JobMessage", must(job.Accuse(1, &job.Accusation{Verdict: sum("v"), Seq: 1, First: signed, Second: signed}))},
		"voucher":                 {"Voucher", must(voucher.Voucher.Cell())},
		"worker contract's data":  {"Worker", workInit.Data},
		"stake":                   {"WorkerMessage", must(worker.Stake(1, 2))},
		"leave":                   {"WorkerMessage", must(worker.Leave(1, 2))},
		"withdrawal of the stake": {"WorkerMessage", must(worker.Withdraw(1))},
		"boot generation":         {"WorkerMessage", must(worker.Advance(1, 2))},
	}
	for _, e := range newEntries() {
		o := &registry.Order{GlobalID: -239, Registry: addr("registry"), Number: 3, ValidUntil: now, Later: true, Schedule: true, Entries: []registry.Entry{e}}
		cells["schedule "+e.String()] = written{"RegistryMessage", must(registry.Propose(1, o, sigs))}
		cells["what schedules "+e.String()] = written{"ScheduleStatement", must(o.Cell())}
	}
	for name, tc := range cells {
		if err := s.whole(tc.kind, tc.cell); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if longer := tc.cell.ToBuilder().MustStoreUInt(1, 1).EndCell(); s.whole(tc.kind, longer) == nil {
			t.Errorf("%s with a bit more is read", name)
		}
	}
}

// Every tagged struct of the sources is a constructor of the schema with the
// same fields in the same order and of the same types, and the other way round.
func TestSchemaIsTheSources(t *testing.T) {
	tlb := readTLB(t)
	src, err := load()
	if err != nil {
		t.Fatal(err)
	}
	byTag := map[uint32]*constructor{}
	for _, c := range tlb.all {
		if c.bits == 32 {
			if byTag[uint32(c.tag)] != nil {
				t.Errorf("%s and %s have one tag", c.name, byTag[uint32(c.tag)].name)
			}
			byTag[uint32(c.tag)] = c
		}
	}
	for op, st := range src.byOp {
		c := byTag[op]
		if c == nil {
			t.Errorf("%s (%08x) is not in the schema", st.name, op)
			continue
		}
		delete(byTag, op)
		compareFields(t, st, c)
	}
	for _, c := range byTag {
		t.Errorf("%s#%08x is in no source", c.name, c.tag)
	}
	// The entries of the registry's lists have a byte.
	for _, c := range tlb.byType["Listed"] {
		name := camel(c.name)
		if src.byName[name] == nil {
			t.Errorf("%s is not in the sources", name)
			continue
		}
		compareFields(t, src.byName[name], c)
	}
	// The rest of the data has no tags.
	for name, result := range map[string]string{
		"JobData": "Job", "Terms": "Terms", "Parties": "Parties", "Demand": "Demand", "Binding": "Binding", "Recorded": "Recorded",
		"VoucherClaim": "VoucherClaim", "ReceiptSignature": "ReceiptSignature", "VerifierSignature": "VerifierSignature", "WorkerTerms": "WorkerTerms",
		"Machine": "Machine", "Head": "Head", "Counts": "Counts", "Waits": "Waits", "Manifest": "Manifest", "Checkpoint": "Checkpoint", "Admin": "Admin", "Pending": "Pending", "Bond": "Bond",
		"Parameters": "Parameters", "Accounts": "Accounts", "OwnerSignature": "OwnerSignature", "Accusation": "Accusation",
	} {
		if src.byName[name] == nil || len(tlb.byType[result]) != 1 {
			t.Errorf("%s: not in the sources, or not once in the schema", name)
			continue
		}
		compareFields(t, src.byName[name], tlb.byType[result][0])
	}
}

func compareFields(t *testing.T, st *structure, c *constructor) {
	t.Helper()
	if len(st.members) != len(c.fields) {
		t.Errorf("%s has %d fields, %s %d", st.name, len(st.members), c.name, len(c.fields))
		return
	}
	for i, m := range st.members {
		f := c.fields[i]
		if snake(m.name) != f.name {
			t.Errorf("%s.%s is %s in the schema", st.name, m.name, f.name)
		}
		if !sameType(m.kind, f.kind) {
			t.Errorf("%s.%s is %s, in the schema %s", st.name, m.name, m.kind, f.kind)
		}
	}
}

var upperRE = regexp.MustCompile(`[A-Z]`)

func snake(name string) string {
	return upperRE.ReplaceAllStringFunc(name, func(s string) string { return "_" + strings.ToLower(s) })
}

func camel(name string) string {
	var out strings.Builder
	for _, word := range strings.Split(name, "_") {
		out.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return out.String()
}

// sameType compares a type of Tolk with one of TL-B.
func sameType(tolk, tlb string) bool {
	switch {
	case tolk == "coins":
		return tlb == "Coins"
	case tolk == "bool":
		return tlb == "Bool"
	case tolk == "address":
		return tlb == "MsgAddressInt"
	case tolk == "address?":
		return tlb == "MsgAddress"
	case tolk == "cell": // read elsewhere, by a type that the schema knows
		return strings.HasPrefix(tlb, "^")
	case tolk == "RemainingBitsAndRefs": // read on by one of several types
		return tlb == "New"
	case tolk == "uint256":
		return tlb == "bits256"
	case strings.HasPrefix(tolk, "map<"):
		key, value, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(tolk, "map<"), ">"), ", ")
		if value == "uint256" {
			value = "bits256"
		}
		return tlb == "(HashmapE "+strings.TrimPrefix(key, "uint")+" "+value+")"
	case strings.HasPrefix(tolk, "Cell<"):
		inner, optional := strings.CutSuffix(tolk, ">?")
		inner = "^" + strings.TrimPrefix(strings.TrimSuffix(inner, ">"), "Cell<")
		if optional {
			inner = "(Maybe " + inner + ")"
		}
		return tlb == inner
	}
	return tolk == tlb
}
