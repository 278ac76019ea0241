package gpu

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/enclave/gpu/nvml"
	"cocoon/enclave/gpu/wire"
	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/services"
)

// recorded answers with evidence that real devices made for one nonce; the
// rest of the machine is played.
type recorded struct {
	machine
	evidence []wire.Device
}

func (r *recorded) Ask(ctx context.Context, q *wire.Request) (*wire.Reply, error) {
	if q.Op != wire.OpCollect {
		return r.machine.Ask(ctx, q)
	}
	doc, err := wire.Marshal(&wire.Reply{Version: wire.Version, Devices: r.evidence})
	if err != nil {
		return nil, err
	}
	return wire.ParseReply(doc, q.Op)
}

// record reads what a real device showed, and the nonce that it answered.
func record(t *testing.T, name, kind string) (wire.Device, []byte) {
	t.Helper()
	read := func(file string) []byte {
		b, err := os.ReadFile(filepath.Join(vectors.Dir(t), "gpu", "evidence", name, file))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	chain, err := nvml.Certificates(read("chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := hex.DecodeString(strings.TrimSpace(string(read("nonce.hex"))))
	if err != nil {
		t.Fatal(err)
	}
	return wire.Device{Kind: kind, UUID: "GPU-recorded", Report: read("report.bin"), Chain: chain}, nonce
}

// bundleOf puts documents of the vectors under their ids.
func bundleOf(t *testing.T, at time.Time, docs map[string]string) []byte {
	t.Helper()
	b := &services.Bundle{Version: 1, Created: at, Entries: []services.BundleEntry{}}
	for id, file := range docs {
		doc, err := os.ReadFile(filepath.Join(vectors.Dir(t), "gpu", file))
		if err != nil {
			t.Fatal(err)
		}
		b.Entries = append(b.Entries, services.BundleEntry{Key: "rim " + id, Fetched: at, Data: doc})
	}
	out, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A real H100's recorded evidence passes the boot's attestation whole, under
// NVIDIA's roots and with NVIDIA's manifests, at a time when they were valid.
func TestARecordedH100IsAttested(t *testing.T) {
	device, nonce := record(t, "google-hopper-550.90.07", wire.KindGPU)
	at := time.Date(2025, 9, 1, 0, 0, 0, 0, time.UTC)
	const dir = "evidence/google-hopper-550.90.07/"
	good := bundleOf(t, at, map[string]string{
		rim.DriverID(string(nvgpu.Hopper), "", "550.90.07"):  dir + "driver.swidtag",
		rim.VBIOSID("1010", "0200", "882", "96.00.9F.00.01"): dir + "vbios.swidtag",
	})
	try := func(bundle []byte, now time.Time, mode string) error {
		m := New(Options{Expect: evidence.ConfigGPUs{Count: 1, Mode: mode}, System: &recorded{evidence: []wire.Device{device}}, Collateral: bundle,
			Clock: func() time.Time { return now }, Rand: bytes.NewReader(nonce), Log: slog.New(slog.DiscardHandler)})
		return m.Attest(context.Background())
	}
	if err := try(good, at, ModeOn); err != nil {
		t.Errorf("it is refused: %v", err)
	}
	if err := try(good, at, ModePPCIE); !fault.Has(err, CodeMode) {
		t.Errorf("in another mode than the config's: got %v", err)
	}
	if err := try(good, time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), ModeOn); !fault.Has(err, "gpu.rim.driver") {
		t.Errorf("after the manifests' signer expired: got %v", err)
	}
}

// A real board of 8 H200s and 4 NVSwitches, as recorded: all of it holds but
// what no manifest is at hand for.
func TestARecordedBoardLacksNothingButItsManifests(t *testing.T) {
	var devices []wire.Device
	var nonce []byte
	for i := range 8 {
		d, n := record(t, fmt.Sprint("nvtrust-ppcie-gpu-", i), wire.KindGPU)
		devices, nonce = append(devices, d), n
	}
	for i := range 4 {
		d, _ := record(t, fmt.Sprint("nvtrust-ppcie-switch-", i), wire.KindSwitch)
		devices = append(devices, d)
	}
	at := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	m := New(Options{Expect: evidence.ConfigGPUs{Count: 8, Mode: ModePPCIE}, System: &recorded{evidence: devices}, Collateral: bundleOf(t, at, nil),
		Clock: func() time.Time { return at }, Rand: bytes.NewReader(nonce), Log: slog.New(slog.DiscardHandler)})
	err := m.Attest(context.Background())
	all := fault.All(err)
	if len(all) == 0 {
		t.Fatalf("a board without manifests was attested: %v", err)
	}
	for _, f := range all {
		if !strings.HasPrefix(f.Code, "gpu.rim.") {
			t.Errorf("%s: %v", f.Code, f)
		}
	}
}
