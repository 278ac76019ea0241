package qemu

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/spec"
	"cocoon/hostd/vsock"
	"cocoon/internal/fault"
)

func testSpec() *spec.Spec {
	return &spec.Spec{Version: 1, Name: "worker", TEE: spec.TEEVTPM, MemoryMiB: 1024, CPUs: 2, Image: "/im,age",
		Packs: spec.Packs{Engine: "/p/engine.img", Model: "/p/mo,del.img"}, Config: "/c/con,fig.json", Operator: "/c/operator.json",
		FwCfg:    map[string]string{"ton-global.json": "/c/ton.json"},
		Forwards: []spec.Forward{{Guest: "10.0.2.100:443", Target: "127.0.0.1:8443"}}}
}

func testOptions() Options {
	return Options{Accel: AccelTCG, Firmware: "/fw/OVMF.fd", Cmdline: "console=ttyS0 quiet", Relay: []string{"/opt/it's here/hostd", "relay"}}
}

// values returns what follows each use of an option.
func values(args []string, opt string) []string {
	var vs []string
	for i, a := range args {
		if a == opt && i+1 < len(args) {
			vs = append(vs, args[i+1])
		}
	}
	return vs
}

func decode(t *testing.T, s string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		t.Fatalf("%s is not JSON: %v", s, err)
	}
	return m
}

func TestArgsBootTheMeasuredFilesDirectly(t *testing.T) {
	args, err := Args(testSpec(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	for opt, want := range map[string]string{"-kernel": "/im,age/vmlinuz", "-initrd": "/im,age/initrd", "-append": "console=ttyS0 quiet",
		"-bios": "/fw/OVMF.fd", "-m": "1024M", "-smp": "2", "-accel": "tcg,thread=multi", "-cpu": TCGModel} {
		if got := values(args, opt); !slices.Equal(got, []string{want}) {
			t.Errorf("%s %q, want %q", opt, got, want)
		}
	}
}

func TestArgsGiveTheGuestReadOnlyDisksBySerial(t *testing.T) {
	s := testSpec()
	s.Packs.Models = []string{"/p/b.img", "/p/c.img"}
	args, err := Args(s, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, v := range values(args, "-blockdev") {
		m := decode(t, v)
		if m["read-only"] != true {
			t.Errorf("block device is not read-only: %s", v)
		}
		if m["driver"] == "file" {
			files[m["node-name"].(string)] = m["filename"].(string)
		}
	}
	want := map[string]string{SerialRoot: "/im,age/root.img", SerialEngine: "/p/engine.img", SerialModel: "/p/mo,del.img", "cocoon-model-2": "/p/b.img", "cocoon-model-3": "/p/c.img"}
	for _, v := range values(args, "-device") {
		if !strings.HasPrefix(v, "{") {
			continue
		}
		m := decode(t, v)
		if m["driver"] != "virtio-blk-pci" {
			continue
		}
		serial := m["serial"].(string)
		if got := files[m["drive"].(string)+"-file"]; got != want[serial] {
			t.Errorf("disk %s is %s, want %s", serial, got, want[serial])
		}
		delete(want, serial)
	}
	if len(want) != 0 {
		t.Errorf("disks missing: %v", want)
	}
}

func TestTheDataDiskIsTheOnlyOneThatIsWritten(t *testing.T) {
	s := testSpec()
	s.DataDisk = &spec.DataDisk{Path: "/d/da,ta.img", SizeMiB: 64}
	args, err := Args(s, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	written := map[string]bool{}
	for _, v := range values(args, "-blockdev") {
		m := decode(t, v)
		if m["read-only"] != true {
			written[m["node-name"].(string)] = true
			if m["driver"] == "file" && m["filename"] != "/d/da,ta.img" {
				t.Errorf("written: %s", v)
			}
		}
	}
	if len(written) != 2 || !written["data"] || !written["data-file"] {
		t.Errorf("written: %v", written)
	}
	serial := false
	for _, v := range values(args, "-device") {
		if strings.HasPrefix(v, "{") {
			if m := decode(t, v); m["drive"] == "data" {
				serial = m["serial"] == SerialData
			}
		}
	}
	if !serial {
		t.Error("the data disk has no serial")
	}
}

func TestArgsLeaveNoWayIntoTheGuest(t *testing.T) {
	args, err := Args(testSpec(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	for _, need := range []string{"-nodefaults", "-no-user-config", "-no-reboot"} {
		if !slices.Contains(args, need) {
			t.Errorf("%s is missing", need)
		}
	}
	all := strings.Join(args, " ")
	for _, never := range []string{"hostfwd", "-vnc", "-monitor", "-gdb", "-qmp", "virtfs", "virtio-9p", "vhost-user", "-s ", "smb="} {
		if strings.Contains(all, never) {
			t.Errorf("%s among the arguments", never)
		}
	}
	for _, v := range values(args, "-chardev") {
		if !strings.Contains(v, ",fd=") {
			t.Errorf("a channel that others can reach: %s", v)
		}
	}
	net := decode(t, values(args, "-netdev")[0])
	if net["restrict"] != true {
		t.Errorf("the network is not restricted: %v", net)
	}
	fwd := net["guestfwd"].([]any)[0].(map[string]any)["str"]
	if want := `tcp:10.0.2.100:443-cmd:'/opt/it'\''s here/hostd' 'relay' '127.0.0.1:8443'`; fwd != want {
		t.Errorf("forward %s, want %s", fwd, want)
	}
	nic := false
	for _, v := range values(args, "-device") {
		if strings.HasPrefix(v, "{") {
			if m := decode(t, v); m["driver"] == "virtio-net-pci" {
				nic = m["romfile"] == ""
			}
		}
	}
	if !nic {
		t.Error("the NIC has an option ROM, which would be measured")
	}
}

func TestArgsEscapeFwCfgPathsAndNameThemBelowThePrefix(t *testing.T) {
	args, err := Args(testSpec(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"name=opt/cocoon/config.json,file=/c/con,,fig.json", "name=opt/cocoon/operator.json,file=/c/operator.json", "name=opt/cocoon/ton-global.json,file=/c/ton.json"}
	if got := values(args, "-fw_cfg"); !slices.Equal(got, want) {
		t.Errorf("fw_cfg %q, want %q", got, want)
	}
}

func TestArgsForbidSpawningWithoutForwards(t *testing.T) {
	s := testSpec()
	s.Forwards = nil
	args, err := Args(s, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if v := values(args, "-sandbox"); len(v) != 1 || !strings.Contains(v[0], "spawn=deny") || !strings.Contains(v[0], "elevateprivileges=deny") {
		t.Errorf("sandbox %q", v)
	}
}

func TestArgsRefuse(t *testing.T) {
	s := testSpec()
	s.TEE = spec.TEETDX
	if _, err := Args(s, testOptions()); !fault.Has(err, "vm.tee.accelerator") {
		t.Errorf("a tdx guest without kvm: %v", err)
	}
	o := testOptions()
	o.Accel, o.Transport = AccelKVM, vsock.User
	if _, err := Args(s, o); !fault.Has(err, "vm.tee.transport") {
		t.Errorf("a tdx guest whose memory is shared: %v", err)
	}
	o = testOptions()
	o.Accel = "hvf"
	if _, err := Args(testSpec(), o); err == nil {
		t.Error("an unknown accelerator was accepted")
	}
	o = testOptions()
	o.Relay = nil
	if _, err := Args(testSpec(), o); err == nil {
		t.Error("forwards without a relay were accepted")
	}
}

var update = flag.Bool("update", false, "write golden files")

// The arguments of each transport, one a line.
func TestArgsOfEachTransport(t *testing.T) {
	for _, transport := range []string{vsock.Serial, vsock.Kernel, vsock.User} {
		t.Run(transport, func(t *testing.T) {
			o := testOptions()
			o.Transport = transport
			if transport != vsock.Serial {
				o.CID, o.Relay = 7, nil
			}
			args, err := Args(testSpec(), o)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(args, "\n") + "\n"
			path := filepath.Join("testdata", transport+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("arguments (-want +got), -update writes them:\n%s", diff)
			}
			if transport == vsock.Serial {
				return
			}
			// With vsock the guest has no network, and QEMU starts nothing.
			for _, never := range []string{"-netdev", "virtio-net", "virtserialport", "guestfwd"} {
				if strings.Contains(got, never) {
					t.Errorf("%s among the arguments", never)
				}
			}
			if !strings.Contains(got, "spawn=deny") || strings.Contains(got, "path=") {
				t.Error("QEMU may start programs, or a channel has a path")
			}
		})
	}
	o := testOptions()
	o.Transport = "pigeon"
	if _, err := Args(testSpec(), o); err == nil {
		t.Error("an unknown transport was accepted")
	}
}
