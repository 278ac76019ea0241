package doctor_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/doctor"
	"cocoon/hostd/hosttest"
	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/forecast"
	"cocoon/verifier/tcb"
)

var update = flag.Bool("update", false, "write the golden files")

const firmware = "usr/lib/cocoon/tools/usr/share/ovmf/OVMF.fd"

// options has everything that a machine's owner can name. The RIM service is
// simulated: it knows VBIOS 96.00.9F.00.01 alone.
func options(m *hosttest.Machine) doctor.Options {
	b := m.MapFS[firmware].Data
	sum := sha256.Sum256(b)
	return doctor.Options{System: m, StateDir: "/var/lib/cocoon-hostd", Firmware: firmware,
		KnownFirmware: map[string]string{hex.EncodeToString(sum[:]): "OVMF 2026.08+ds-2 (synthesised)"},
		RIM: func(_ context.Context, _, driver, vbios string) error {
			if vbios != "" && vbios != "96.00.9F.00.01" {
				return fault.New(fault.ExitNotReady, "gpu.rim.not_found", "", "looking for reference measurements of VBIOS %s: there are none", vbios)
			}
			return nil
		}}
}

func TestMachines(t *testing.T) {
	want := map[string]string{"tdx-h100": doctor.Production, "snp-h200-ppcie": doctor.Production,
		"bios-off": doctor.Development, "cc-off": doctor.Development, "iommu-shared": doctor.Development,
		"unknown-vbios": doctor.Development, "old-kernel": doctor.NotReady, "bare-vm": doctor.Development}
	for _, name := range hosttest.Names() {
		t.Run(name, func(t *testing.T) {
			r := doctor.Run(t.Context(), options(hosttest.New(t, name)))
			if r.Ready != want[name] {
				t.Errorf("ready = %q, want %q", r.Ready, want[name])
			}
			var buf bytes.Buffer
			enc := json.NewEncoder(&buf)
			enc.SetIndent("", "  ")
			enc.SetEscapeHTML(false)
			if err := enc.Encode(r); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(golden), buf.String()); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			ids := map[string]bool{}
			for _, c := range r.Checks {
				if ids[c.ID] || c.Finding == "" || (c.Status == doctor.Fail || c.Status == doctor.Warn) && c.Remedy == "" {
					t.Errorf("check %+v is there twice or lacks its finding or remedy", c)
				}
				ids[c.ID] = true
			}
		})
	}
}

// Each change of a ready machine is seen by the check that is there for it.
func TestEachFindingHasItsCheck(t *testing.T) {
	const gpu = "0000:1b:00.0"
	for _, tc := range []struct {
		name    string
		machine string
		change  func(*hosttest.Machine, *doctor.Options)
		check   string
		status  doctor.Status
		ready   string
	}{
		{"the TDX module did not come up", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) {
			m.Command("dmesg", "[    9.9] virt/tdx: module initialization failed (-5)\n")
		}, "tdx.module", doctor.Fail, doctor.Development},
		{"the platform is not registered", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) {
			m.Command("mpa_manage -get_registration_status", "Registration process failed\n")
		}, "sgx.registration", doctor.Fail, doctor.Development},
		{"the PCCS is down", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) { m.Unreachable("localhost:8081") }, "sgx.pccs", doctor.Fail, doctor.Development},
		{"the PCCS file is not JSON", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) {
			m.MapFS["etc/sgx_default_qcnl.conf"].Data = []byte("{")
		}, "sgx.pccs", doctor.Fail, doctor.Development},
		{"the PCCS does not know the platform", "tdx-h100", func(_ *hosttest.Machine, o *doctor.Options) {
			o.Platform = func(_ context.Context, at string, any bool) (string, error) {
				return "", fault.New(fault.ExitNotReady, "pccs.unknown", "register it", "asking %s, any certificate: %v", at, any)
			}
		}, "sgx.known", doctor.Fail, doctor.Development},
		{"the PCCS knows the platform", "tdx-h100", func(_ *hosttest.Machine, o *doctor.Options) {
			o.Platform = func(context.Context, string, bool) (string, error) { return "00806f050000", nil }
		}, "sgx.known", doctor.Pass, doctor.Production},
		{"the PCCS does not say", "tdx-h100", func(_ *hosttest.Machine, o *doctor.Options) {
			o.Platform = func(context.Context, string, bool) (string, error) {
				return "", fault.New(fault.ExitNetwork, "pccs.unreachable", "r", "m")
			}
		}, "sgx.known", doctor.Warn, doctor.Production},
		{"no quote generation service", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) { delete(m.MapFS, "var/run/tdx-qgs/qgs.socket") }, "tdx.qgs", doctor.Fail, doctor.Development},
		{"the SNP firmware is old", "snp-h200-ppcie", func(m *hosttest.Machine, _ *doctor.Options) {
			m.Command("dmesg", "[    8.2] ccp 0000:45:00.1: SEV-SNP API:1.49 build:3\n")
		}, "snp.firmware", doctor.Fail, doctor.Development},
		{"AMD's key service cannot be reached", "snp-h200-ppcie", func(m *hosttest.Machine, _ *doctor.Options) { m.Unreachable("kdsintf.amd.com:443") }, "snp.kds", doctor.Warn, doctor.Production},
		{"a switch is missing", "snp-h200-ppcie", func(m *hosttest.Machine, _ *doctor.Options) { m.Unplug("0000:d4:00.0") }, "gpu.nvswitches", doctor.Fail, doctor.Development},
		{"a GPU lets itself be debugged", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) { m.SetRegister(gpu, 0x1182cc, 3) }, "gpu.mode", doctor.Fail, doctor.Development},
		{"a GPU fell off the bus", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) { m.SetRegister(gpu, 0x200bc, 0xffffffff) }, "gpu.mode", doctor.Fail, doctor.Development},
		{"one GPU of eight is in the other mode", "snp-h200-ppcie", func(m *hosttest.Machine, _ *doctor.Options) { m.SetRegister("0000:05:00.0", 0x1182cc, 1) }, "gpu.mode", doctor.Fail, doctor.Development},
		{"the BIOS cut the GPU's window", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) {
			m.MapFS["sys/bus/pci/devices/"+gpu+"/resource"].Data = []byte("0x0 0xffffff 0x0\n")
		}, "gpu.bar", doctor.Fail, doctor.Development},
		{"without rights production is not shown", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) { m.Set("root", "no") }, "gpu.mode", doctor.Skip, doctor.Development},
		{"the firmware is not published", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) { m.MapFS[firmware].Data = []byte("other") }, "ovmf.known", doctor.Fail, doctor.Development},
		{"there is no firmware", "tdx-h100", func(_ *hosttest.Machine, o *doctor.Options) { o.Firmware = "" }, "ovmf.known", doctor.Fail, doctor.NotReady},
		{"the disk is full", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) { m.Set("free_gib", "1") }, "disk.free", doctor.Fail, doctor.NotReady},
		{"the clock runs free", "tdx-h100", func(m *hosttest.Machine, _ *doctor.Options) { m.Set("clock", "free") }, "time.synchronised", doctor.Warn, doctor.Production},
		{"a gateway cannot be reached", "tdx-h100", func(_ *hosttest.Machine, o *doctor.Options) { o.Reach = []string{"gateway.example:8443"} }, "net.outbound", doctor.Fail, doctor.Development},
		{"the wallet runs dry", "tdx-h100", func(_ *hosttest.Machine, o *doctor.Options) {
			o.Ledger = func(context.Context) (*doctor.Ledger, error) {
				return &doctor.Ledger{Servers: 3, Reachable: 3, Seqno: 7, Balance: 1e8, Low: 1e9}, nil
			}
		}, "ton.wallet", doctor.Warn, doctor.Production},
		{"no lite-server answers", "tdx-h100", func(_ *hosttest.Machine, o *doctor.Options) {
			o.Ledger = func(context.Context) (*doctor.Ledger, error) { return nil, errors.New("no server answers") }
		}, "ton.liteservers", doctor.Fail, doctor.Development},
		{"the RIM service does not answer", "unknown-vbios", func(_ *hosttest.Machine, o *doctor.Options) {
			o.RIM = func(context.Context, string, string, string) error {
				return fault.New(fault.ExitNetwork, "rim.service.unreachable", "", "asking")
			}
		}, "gpu.rim", doctor.Warn, doctor.Production},
		{"the idle policy is wrong", "tdx-h100", func(_ *hosttest.Machine, o *doctor.Options) {
			o.IdlePolicy = func() (string, error) { return "", errors.New("unknown field") }
		}, "idle.policy", doctor.Fail, doctor.Production},
		{"the TCB is out of date next year", "tdx-h100", forecastOf(tcb.UpToDate, tcb.OutOfDate, 30), "tcb.forecast", doctor.Warn, doctor.Production},
		{"the TCB is out of date", "tdx-h100", forecastOf(tcb.OutOfDate, tcb.OutOfDate, 30), "tcb.forecast", doctor.Fail, doctor.Development},
		{"the collateral ends in days", "tdx-h100", forecastOf(tcb.UpToDate, tcb.UpToDate, 3), "tcb.forecast", doctor.Warn, doctor.Production},
		{"nothing ends soon", "tdx-h100", forecastOf(tcb.UpToDate, tcb.UpToDate, 30), "tcb.forecast", doctor.Pass, doctor.Production},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := hosttest.New(t, tc.machine)
			o := options(m)
			tc.change(m, &o)
			r := doctor.Run(t.Context(), o)
			if c, ok := r.Get(tc.check); !ok || c.Status != tc.status {
				t.Errorf("%s = %+v, want %s", tc.check, c, tc.status)
			}
			if r.Ready != tc.ready {
				t.Errorf("ready = %q, want %q", r.Ready, tc.ready)
			}
		})
	}
}

func forecastOf(now, next tcb.Status, days int) func(*hosttest.Machine, *doctor.Options) {
	return func(m *hosttest.Machine, o *doctor.Options) {
		o.Forecast = func(context.Context) (*forecast.Report, error) {
			return &forecast.Report{Time: m.Now(), Later: true,
				Current: forecast.Status{Verdict: tcb.Verdict{Status: now}, Evaluation: 20},
				Next:    &forecast.Status{Verdict: tcb.Verdict{Status: next}, Evaluation: 21},
				Parts:   []forecast.Part{{Part: collateral.Part{Name: "tcb_info", NextUpdate: m.Now().AddDate(0, 0, days)}, Days: days}}}, nil
		}
	}
}

func TestErrSaysTheExitCode(t *testing.T) {
	for name, want := range map[string]int{"tdx-h100": 0, "bare-vm": fault.ExitDevOnly, "old-kernel": fault.ExitNotReady} {
		if got := fault.ExitCode(doctor.Run(t.Context(), options(hosttest.New(t, name))).Err()); got != want {
			t.Errorf("%s: exit code %d, want %d", name, got, want)
		}
	}
}

func TestTEESaysWhatStandsInTheWayOfAGuest(t *testing.T) {
	for _, tc := range []struct {
		machine, tee string
		codes        []string
	}{
		{"tdx-h100", "tdx", nil},
		{"snp-h200-ppcie", "snp", nil},
		{"cc-off", "tdx", nil}, // the GPU is another matter
		{"tdx-h100", "snp", []string{"cpu.tee"}},
		{"bios-off", "tdx", []string{"cpu.tee", "tdx.host", "sgx.devices", "tdx.qgs"}},
		{"old-kernel", "tdx", []string{"tdx.host", "kernel.version"}},
		{"bare-vm", "snp", []string{"cpu.tee"}},
	} {
		err := doctor.TEE(t.Context(), hosttest.New(t, tc.machine), tc.tee)
		if (err == nil) != (tc.codes == nil) {
			t.Errorf("%s on %s: %v", tc.tee, tc.machine, err)
		}
		for _, c := range tc.codes {
			if !fault.Has(err, c) {
				t.Errorf("%s on %s: no %s in %v", tc.tee, tc.machine, c, err)
			}
		}
	}
}

// fixable is a host of which three things can be mended.
func fixable(t *testing.T) *hosttest.Machine {
	m := hosttest.New(t, "cc-off")
	for _, name := range []string{"sys/bus/pci/drivers/vfio-pci", "dev/vhost-vsock"} {
		delete(m.MapFS, name)
	}
	return m
}

func TestFixesMendWhatTheyList(t *testing.T) {
	m := fixable(t)
	r := doctor.Run(t.Context(), options(m))
	var what []string
	for _, f := range r.Fixes() {
		what = append(what, f.What)
	}
	want := []string{"modprobe vfio-pci", "modprobe vhost_vsock", "echo on > /sys/bus/pci/devices/0000:1b:00.0/power/control"}
	if diff := cmp.Diff(want, what); diff != "" {
		t.Fatalf("fixes (-want +got):\n%s", diff)
	}
	if err := doctor.Apply(t.Context(), m, r.Fixes()); err != nil {
		t.Fatal(err)
	}
	after := doctor.Run(t.Context(), options(m))
	for _, id := range []string{"vfio.module", "vsock.module", "gpu.power"} {
		if c, _ := after.Get(id); c.Status != doctor.Pass {
			t.Errorf("after the fixes: %+v", c)
		}
	}
	if len(after.Fixes()) != 0 {
		t.Errorf("still to be fixed: %v", after.Fixes())
	}
}

func TestAFixThatFailsTakesBackThoseBefore(t *testing.T) {
	m := fixable(t)
	m.Fail["sys/bus/pci/devices/0000:1b:00.0/power/control"] = errors.New("no such device")
	r := doctor.Run(t.Context(), options(m))
	if err := doctor.Apply(t.Context(), m, r.Fixes()); !fault.Has(err, "doctor.fix") {
		t.Fatalf("Apply() = %v, want doctor.fix", err)
	}
	for _, name := range []string{"sys/bus/pci/drivers/vfio-pci", "dev/vhost-vsock"} {
		if _, err := m.Stat(name); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestFixesNeedRights(t *testing.T) {
	m := fixable(t)
	m.Set("root", "no")
	r := doctor.Run(t.Context(), options(m))
	if err := doctor.Apply(t.Context(), m, r.Fixes()); !fault.Has(err, "doctor.permission") || len(m.Writes) != 0 {
		t.Errorf("Apply() = %v with writes %v, want doctor.permission and none", err, m.Writes)
	}
}

// On any host: a whole report in bounded time, whatever the rights.
func TestThisMachine(t *testing.T) {
	sys, err := doctor.NewLinux(nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := doctor.Run(t.Context(), doctor.Options{System: sys, StateDir: "/var/lib/cocoon-hostd"})
	t.Logf("%s: %s", time.Since(began).Round(time.Millisecond), r.Ready)
	if r.Ready != doctor.NotReady { // no firmware was named
		t.Errorf("ready = %q without a firmware", r.Ready)
	}
	for _, id := range []string{"cpu.tee", "kernel.version", "memory.free", "disk.free"} {
		c, ok := r.Get(id)
		if !ok || c.Finding == "" {
			t.Errorf("no %s: %+v", id, c)
		}
		t.Logf("%s %s: %s", c.Status, c.ID, c.Finding)
	}
	if slices.ContainsFunc(r.Checks, func(c doctor.Check) bool { return strings.ContainsAny(c.Finding, "\n\t") }) {
		t.Error("a finding has more than one line")
	}
}
