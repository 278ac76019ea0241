package boottest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cocoon/hostd/proc"
	"cocoon/hostd/qemu"
	"cocoon/hostd/record"
	"cocoon/hostd/swtpm"
	"cocoon/image/info"
	"cocoon/internal/imagetest"
	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/launch"
	"cocoon/measurements/pcr"
	"cocoon/measurements/uki"
)

// envSoak names the variable that asks for all shapes of machines.
const envSoak = "COCOON_SOAK"

// firstLine begins the supervisor's first line on the console, and nothing
// that the initrd prints.
const firstLine = "cocoon: s"

// shape is a machine and the way it boots.
type shape struct {
	cpus, mem int // mem in MiB
	unified   bool
	soak      bool // in the full matrix only
}

func (s shape) String() string {
	way := "direct boot" // kernel, initrd and command line
	if s.unified {
		way = "unified kernel image"
	}
	return fmt.Sprintf("%s with %d CPUs and %d MiB", way, s.cpus, s.mem)
}

// TestMeasuredBoot boots the image under OVMF with a software TPM and holds
// every register and every event that can be predicted from the files against
// what the TPM was told and holds at the moment when the kernel takes over.
// PCR 1 depends on the machine and is held by component.
func TestMeasuredBoot(t *testing.T) {
	b := imagetest.Find(t)
	im, err := info.LoadImage(b.Image)
	if err != nil {
		t.Fatal(err)
	}
	shapes := []shape{
		{cpus: 2, mem: 1024},
		{cpus: 2, mem: 1024, unified: true},
		{cpus: 1, mem: 1024, soak: true},
		{cpus: 1, mem: 512, soak: true},
		{cpus: 2, mem: 512, soak: true},
		{cpus: 1, mem: 512, unified: true, soak: true},
	}
	for _, s := range shapes {
		t.Run(s.String(), func(t *testing.T) {
			if s.soak && os.Getenv(envSoak) == "" && os.Getenv(enable) == "" {
				t.Skipf("only with %s=1 or %s=1", envSoak, enable)
			}
			compareBoot(t, predict(t, b, im, s), watchBoot(t, b, im, s))
		})
	}
}

// predict computes the events of each register from the files: firmware,
// kernel, initrd and command line, or the unified image. What the machine adds
// has no digest. Two more predictions must agree: package pcr's, which the
// manifest has, and what was recorded of the firmware.
func predict(t *testing.T, b imagetest.Build, im info.Image, s shape) []boot.Event {
	t.Helper()
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	fw, err := launch.ReadFirmware("OVMF.fd", read(b.Tools.OVMF()))
	if err != nil {
		t.Fatal(err)
	}
	kernel, initrd := read(filepath.Join(b.Image, info.Kernel)), read(filepath.Join(b.Image, info.Initrd))
	var events []boot.Event
	if s.unified {
		var image *uki.Image
		if image, err = uki.Read(read(filepath.Join(b.Image, info.UKI))); err != nil {
			t.Fatal(err)
		}
		if image.Initrd.SHA256 != digest.Sum256(initrd) || image.Cmdline != im.Cmdline {
			t.Error("the unified image carries another initrd or command line than the direct boot's files")
		}
		events, err = launch.UKIEvents(image, fw, launch.Host{})
	} else {
		var image *launch.Image
		if image, err = launch.ReadImage(kernel, initrd, im.Cmdline); err != nil {
			t.Fatal(err)
		}
		events, err = launch.Events(image, fw, launch.Host{})
	}
	if err != nil {
		t.Fatal(err)
	}
	recordings, err := pcr.Recorded()
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := recordings.Find(fw.SHA256)
	if err != nil {
		t.Fatalf("%v; record it: cocoon measure record", err)
	}
	components, err := pcr.Measure(pcr.Files{Kernel: kernel, Initrd: initrd, Cmdline: im.Cmdline})
	if err != nil {
		t.Fatal(err)
	}
	values, err := pcr.Predict(recorded, components, im.Cmdline)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range values.Numbers() {
		if s.unified && (n == pcr.BootManager || n == pcr.LoaderInput || n == 11) {
			continue // of the direct boot
		}
		if got, known := boot.PCR256(events, n); !known || got != values[n] {
			t.Errorf("PCR %d: its events give %s, the manifest's value is %s", n, got, values[n])
		}
	}
	return events
}

// watched is what a boot measured.
type watched struct {
	mu      sync.Mutex
	extends []record.Extend
	pcrs    map[int]digest.SHA256
	over    bool
	err     error
	line    time.Duration // from QEMU's start to the supervisor's first line
}

// exitMark is the last thing that firmware measures.
var exitMark = digest.Sum256([]byte("Exit Boot Services Returned with Success"))

func (w *watched) exchange(cmd, resp []byte, tpm transport.TPM) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	e, ok, err := record.ParseExtend(cmd)
	if err != nil || len(w.extends) > 1000 {
		w.over, w.err = true, errors.Join(err, errors.New("the firmware's TPM commands cannot be followed"))
		return
	}
	if !ok || len(resp) < 10 || binary.BigEndian.Uint32(resp[6:]) != 0 { // only what the TPM accepted counts
		return
	}
	w.extends = append(w.extends, e)
	if e.PCR == pcr.BootConfig && e.Digest == exitMark {
		w.over, w.err = true, w.read(tpm)
	}
}

func (w *watched) read(tpm transport.TPM) error {
	w.pcrs = make(map[int]digest.SHA256)
	for i := range 16 {
		r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(uint(i))}}}}.Execute(tpm)
		if err != nil || len(r.PCRValues.Digests) != 1 || len(r.PCRValues.Digests[0].Buffer) != sha256.Size {
			return fmt.Errorf("reading PCR %d: %w", i, errors.Join(err, errors.New("no SHA-256 value")))
		}
		w.pcrs[i] = digest.SHA256(r.PCRValues.Digests[0].Buffer)
	}
	return nil
}

// watchBoot boots a machine up to the supervisor's first line.
func watchBoot(t *testing.T, b imagetest.Build, im info.Image, s shape) *watched {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	dir := t.TempDir()
	ca, err := swtpm.OpenCA(filepath.Join(dir, "ca"), "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "tpm")
	if _, err := swtpm.Manufacture(ctx, b.Tools, state, ca); err != nil {
		t.Fatal(err)
	}
	tpm, ctrl, err := swtpm.Start(b.Tools, state)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	w := &watched{}
	tap := &swtpm.Tap{On: w.exchange}
	if ctrl, err = tap.Interpose(ctrl); err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(b.Image, name) }
	args := []string{"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", qemu.TCGModel, "-smp", fmt.Sprint(s.cpus), "-m", fmt.Sprint(s.mem),
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-bios", b.Tools.OVMF(),
		"-chardev", "socket,id=tpm,fd=3", "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0",
		"-drive", "if=none,id=root,format=raw,readonly=on,file=" + file(info.RootDisk), "-device", "virtio-blk-pci,drive=root,serial=" + info.RootSerial}
	if s.unified {
		args = append(args, "-kernel", file(info.UKI))
	} else {
		args = append(args, "-kernel", file(info.Kernel), "-initrd", file(info.Initrd), "-append", im.Cmdline)
	}
	cmd := b.Tools.Command(ctx, "qemu-system-x86_64", args...)
	console := &watcher{until: firstLine, cancel: cancel}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{ctrl}
	start := time.Now()
	child, err := proc.Start(cmd)
	ctrl.Close()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-child.Done():
	}
	w.line = time.Since(start)
	if err := child.Kill(); err != nil {
		t.Error(err)
	}
	tap.Wait()
	if !bytes.Contains(console.Bytes(), []byte(firstLine)) {
		t.Fatalf("the supervisor did not come up within %v; console:\n%s", w.line.Round(time.Second), console.String())
	}
	if w.err != nil || w.pcrs == nil {
		t.Fatalf("the measurements cannot be read: %v, %d events", w.err, len(w.extends))
	}
	return w
}

// of returns the extends of one register.
func of(extends []record.Extend, n int) []record.Extend {
	var out []record.Extend
	for _, e := range extends {
		if e.PCR == n {
			out = append(out, e)
		}
	}
	return out
}

// compareBoot prints predicted and measured values side by side and fails for
// each that is not equal.
func compareBoot(t *testing.T, want []boot.Event, w *watched) {
	t.Helper()
	var out strings.Builder
	fmt.Fprintf(&out, "QEMU's start to the supervisor's first line: %.1f s\n", w.line.Seconds())
	fmt.Fprintf(&out, "%-8s %-64s %-64s %s\n", "register", "predicted", "measured", "verdict")
	verdict := func(a, b digest.SHA256) string {
		if a == b {
			return "equal"
		}
		t.Fail()
		return "DIFFERS"
	}
	const host = "depends on the machine"
	replayed := record.Replay(w.extends)
	for n := range 15 {
		got := w.pcrs[n]
		if got != replayed[n] {
			t.Errorf("PCR %d holds %s, the commands that were seen give %s", n, got, replayed[n])
		}
		predicted, known := boot.PCR256(want, n)
		if known == (n == pcr.HostPlatform) {
			t.Errorf("PCR %d: predicted in full: %t", n, known)
		}
		if known {
			fmt.Fprintf(&out, "PCR %-4d %s %s %s\n", n, predicted, got, verdict(predicted, got))
		} else {
			fmt.Fprintf(&out, "PCR %-4d %-64s %s by component\n", n, host, got)
		}
	}
	for n := range 15 {
		var events []boot.Event
		for _, e := range want {
			if e.PCR == n {
				events = append(events, e)
			}
		}
		measured := of(w.extends, n)
		if len(events) != len(measured) {
			t.Errorf("PCR %d: %d events predicted, %d measured", n, len(events), len(measured))
		}
		for i := range min(len(events), len(measured)) {
			e := &events[i]
			if e.Digests == nil {
				fmt.Fprintf(&out, "PCR %-4d %-64s %s %-7s %s\n", n, host, measured[i].Digest, "", e.Component)
				continue
			}
			fmt.Fprintf(&out, "PCR %-4d %s %s %-7s %s, from %s\n", n, e.Digests.SHA256, measured[i].Digest, verdict(e.Digests.SHA256, measured[i].Digest), e.Component, e.Source)
		}
	}
	t.Logf("\n%s", out.String())
}
